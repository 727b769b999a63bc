#!/usr/bin/env bash
# Builds what run.sh needs and puts it into build/gpu, small enough to be carried to the machine with the device:
# bench/gpu/pack.sh [build folder]
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
build=${1:-$root/build/native}
to=$root/build/gpu
cmake -S "$root" -B "$build" >/dev/null
cmake --build "$build" --target fathom device_tests ceilings
mkdir -p "$to"
cp "$build/libfathom.so" "$build/bench/gpu/ceilings" "$to"
# The tests have most of their bytes in common.
(cd "$build/tests/device" && tar -c device_*_test | xz -T1 -9e --lzma2=dict=192MiB >"$to/device_tests.tar.xz")
du -h "$to"/* | sed "s|$root/||"
