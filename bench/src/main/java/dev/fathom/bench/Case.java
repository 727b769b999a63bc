package dev.fathom.bench;

import dev.fathom.DType;
import org.openjdk.jmh.infra.BenchmarkParams;

/** The parameters of one measurement, by the names that the benchmarks give them. */
record Case(BenchmarkParams params) {
    Model model() {
        return Model.valueOf(params.getParam("model"));
    }

    DType type() {
        return DType.valueOf(params.getParam("type"));
    }

    long rows() {
        return integer("rows");
    }

    long sequences() {
        return integer("sequences");
    }

    long context() {
        return integer("context");
    }

    private long integer(String name) {
        return Long.parseLong(params.getParam(name));
    }
}
