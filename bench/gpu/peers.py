"""Fathom's CUDA kernels beside what torch offers, in one process, on torch's memory: a table and JSON.

python3 bench/gpu/peers.py [--library FILE] [--part NAME]... [--only WORD]... [--ceilings FILE] [--json FILE]
python3 bench/gpu/peers.py --smoke           tiny shapes on the CPU, results only: the emulated device
python3 bench/gpu/peers.py --smoke --cpu     the same calls on a CPU context
"""
import argparse
import importlib
import json
import os
import sys
import time

try:
    import torch
except ImportError:
    sys.exit("This Python has no torch: peers are left out.")

import fathom
from measure import Bench

PARTS = ("attention", "linear", "head", "backfill", "small", "block")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--library")
    parser.add_argument("--part", action="append", choices=(*PARTS, "none"))
    parser.add_argument("--only", action="append", default=[], help="cases whose name has the word")
    parser.add_argument("--ceilings", help="JSON of ceilings.cu; what torch's limits are is added")
    parser.add_argument("--json", help="results; cases that are there already are left out")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    if not options.smoke and not torch.cuda.is_available():
        sys.exit("There is no CUDA device here: --smoke compares results without one.")
    if options.cpu and not options.smoke:
        sys.exit("--cpu goes with --smoke.")
    device = "cpu" if options.smoke else "cuda"
    torch.manual_seed(1)
    library = fathom.Fathom(options.library or fathom.default_library(options.smoke and not options.cpu),
                            fathom.CPU if options.cpu else fathom.CUDA, device)
    ceilings = {}
    if options.ceilings and os.path.exists(options.ceilings):
        with open(options.ceilings) as file:
            ceilings = json.load(file)
    about = {"date": time.strftime("%Y-%m-%d"), "torch": torch.__version__,
             "device": torch.cuda.get_device_name() if device == "cuda" else "none"}
    lines = []
    if options.json and os.path.exists(options.json):
        with open(options.json) as file:
            lines = json.load(file)["lines"]
    bench = Bench(device, library, ceilings, options.only, options.smoke, options.json, about, lines)
    torch._dynamo.config.recompile_limit = 64  # one function, many shapes
    with torch.inference_mode():
        bench.measure_ceilings()
        if options.ceilings:
            with open(options.ceilings, "w") as out:
                json.dump(bench.ceilings, out, indent=1)
        for part in options.part or PARTS:
            if part != "none":
                importlib.import_module(part).run(bench)
    wrong = [line for line in bench.lines
             if "wrong" in line or not line.get("failed", "Unsupported").startswith("Unsupported")]
    sys.exit(1 if wrong and options.smoke else 0)


if __name__ == "__main__":
    main()
