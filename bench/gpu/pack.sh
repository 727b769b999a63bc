#!/usr/bin/env bash
# Builds what run.sh needs and puts it into build/gpu/native.tar.xz, small enough to be carried to the machine with the
# device: bench/gpu/pack.sh [build folder]
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
build=${1:-$root/build/native}
to=$root/build/gpu
cmake -S "$root" -B "$build" >/dev/null
cmake --build "$build" --target fathom device_tests ceilings
mkdir -p "$to"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$build/libfathom.so" "$build/bench/gpu/ceilings" "$build"/tests/device/device_*_test "$work"
# They have most of their bytes in common.
(cd "$work" && tar -c -- * | xz -T1 -9e --lzma2=dict=192MiB >"$to/native.tar.xz")
du -h "$to/native.tar.xz" | sed "s|$root/||"
