package dev.fathom.bench;

import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.NormKind;
import dev.fathom.NormShape;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.TearDown;

/** A call that does nothing, with the arguments of a kernel: context, shape, buffers. */
@State(Scope.Benchmark)
public class Boundary {
    private final NormShape shape = new NormShape(NormKind.RMS, 64, 1e-5f);
    private Context context;
    private Buffer a;
    private Buffer b;
    private Buffer c;
    private Buffer d;

    @Setup
    public void open() {
        context = Context.cpu(1);
        a = context.allocate(64);
        b = context.allocate(64);
        c = context.allocate(64);
        d = context.allocate(64);
    }

    @TearDown
    public void close() {
        context.close();
    }

    void call() {
        context.nop(shape, a, b, c, d);
    }
}
