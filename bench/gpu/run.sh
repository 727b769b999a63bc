#!/usr/bin/env bash
# Everything that needs a CUDA device, in one run of less than nine minutes: its limits, the native tests, the table
# against torch, compute-sanitizer. Takes what pack.sh left in build/gpu, or builds it; needs a python3 with torch.
#
#   bench/gpu/run.sh [--part library|ceilings|tests|attention|linear|block|head|backfill|small|sanitizer|profile]...
#
# profile, which runs only if it is named, puts what Nsight Compute says of three kernels beside the results.
#
# OUT: where DATE-DEVICE.json, .md and .log go (default bench/results). Every part has a time limit of its own, and what
# was measured is on disk when it ends.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
python=${PYTHON:-python3}
out=${OUT:-$root/bench/results}
all=(library ceilings tests attention linear block head backfill small sanitizer)
parts=()
fail() {
  echo "error: $1" >&2
  exit 2
}
while [ $# -gt 0 ]; do
  [ "$1" = --part ] && [ $# -gt 1 ] || fail "usage: run.sh [--part NAME]..., of ${all[*]}"
  [[ " ${all[*]} profile " = *" $2 "* ]] || fail "--part must be one of ${all[*]}, got $2"
  parts+=("$2")
  shift 2
done
[ ${#parts[@]} -gt 0 ] || parts=("${all[@]}")

device=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1)
[ -n "$device" ] ||
  fail "there is no CUDA device here. Without one, python3 bench/gpu/peers.py --smoke compares results in emulation."
work=$(mktemp -d)
trap 'rm -rf "$work"; exec >&- 2>&-; wait' EXIT
mkdir -p "$out" || fail "$out cannot be written"
name=$out/$(date +%F)-$(echo "$device" | tr 'A-Z ' 'a-z-' | tr -cd 'a-z0-9.-')
exec > >(tee "$name.log") 2>&1
end=$((SECONDS + ${LIMIT:-530}))

nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.max.sm,temperature.gpu,pstate --format=csv
nvcc --version 2>/dev/null | sed -n 's/.*release/nvcc: release/p'
"$python" -c 'import torch, triton
print("torch", torch.__version__, "cuda", torch.version.cuda, "triton", triton.__version__)'

# limited SECONDS COMMAND...: no longer than that, nor than the whole run may take.
limited() {
  local limit=$1 left=$((end - SECONDS))
  shift
  [ "$left" -gt 3 ] || { echo "no time is left"; return 124; }
  timeout -k 5 $((limit < left ? limit : left)) "$@"
}
loads() {
  "$python" - "$1" <<'PY'
import ctypes, sys
try:
    library = ctypes.CDLL(sys.argv[1])
except OSError as e:
    sys.exit(f"{e}")
if library.fth_cuda_device_count() < 1:
    sys.exit("the library finds no CUDA device")
PY
}

have=$work/bin
find_library() {
  mkdir -p "$have"
  if [ -e "$root/build/gpu/native.tar.xz" ]; then
    "$python" -m tarfile -e "$root/build/gpu/native.tar.xz" "$have" && loads "$have/libfathom.so" && return
  fi
  echo "building here"
  local build=$root/build/device
  limited 240 sh -c "cmake -S '$root' -B '$build' -G Ninja >/dev/null &&
    cmake --build '$build' --target fathom ceilings device_tests -j $(nproc)" || return
  cp "$build/libfathom.so" "$build/bench/gpu/ceilings" "$build"/tests/device/device_*_test "$have"
  loads "$have/libfathom.so"
}

part_library() { ls -l "$have"; }
part_ceilings() {
  limited 30 "$have/ceilings" "$work/ceilings.json"
  limited 40 "$python" -u "$here/peers.py" --library "$have/libfathom.so" --ceilings "$work/ceilings.json" --part none
}
# each LIMIT FILE COMMAND...: the command for every test, some side by side, for two thirds of the time at most; in FILE
# a line NAME STATUS LAST-LINE for each.
each() {
  local test
  export file=$2 each_limit=$(($1 * 2 / 3))
  # shellcheck disable=SC2016
  limited "$1" xargs -P 6 -I{} sh -c '
    test=$1; shift
    timeout -k 2 "$each_limit" "$@" "$test" >"$test.$$" 2>&1; status=$?
    [ $status = 0 ] || sed "s|^|$(basename "$test"): |" "$test.$$" | tail -n 30
    printf "%s\t%s\t%s\n" "$(basename "$test")" $status "$(tail -n 1 "$test.$$")" >>"$file"
    rm "$test.$$"' _ {} "${@:3}" < <(ls "$have"/device_*_test)
  for test in "$have"/device_*_test; do
    grep -q "^$(basename "$test")	" "$file" || printf '%s\t124\tnot reached\n' "$(basename "$test")" >>"$file"
  done
  cat "$file"
}
part_tests() { each 90 "$work/tests.tsv" env; }
part_sanitizer() {
  command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer is left out: it is not installed"; return; }
  local tool
  for tool in memcheck synccheck racecheck; do
    each 60 "$work/sanitizer-$tool.tsv" compute-sanitizer --tool $tool --error-exitcode 9 --print-limit 5
  done
}
# A case that hangs or loses the device ends the process; the next one goes on behind it.
compare() {
  local until=$((SECONDS + $2)) try status
  for try in 1 2 3 4; do
    limited $((until - SECONDS)) "$python" -u -W ignore "$here/peers.py" --library "$have/libfathom.so" --part "$1" \
      --ceilings "$work/ceilings.json" --json "$work/peers-$1.json"
    status=$?
    [ $status = 0 ] || [ $status = 124 ] || [ $SECONDS -ge $until ] || continue
    return $status
  done
}
part_attention() { compare attention 130; }
part_linear() { compare linear 80; }
part_block() { compare block 150; }
part_head() { compare head 55; }
part_backfill() { compare backfill 40; }
part_small() { compare small 60; }

# profile_kernel KERNEL PART CASE
profile_kernel() {
  limited 60 ncu --clock-control none --set full -k "regex:$1" -c 2 "$python" -W ignore "$here/peers.py" \
    --library "$have/libfathom.so" --part "$2" --only "$3" --ceilings "$work/ceilings.json" >"$name-ncu-$2.txt" 2>&1
  grep -E 'Duration|DRAM Throughput|L2 Cache Throughput|Registers Per|Theoretical Occ|Achieved Occ' "$name-ncu-$2.txt"
}
part_profile() {
  command -v ncu >/dev/null || { echo "the profile is left out: ncu is not installed"; return; }
  profile_kernel attend attention "decode, 32 of 4096, 32/8 heads of 128"
  profile_kernel linear_strip linear "4096 to 14336, bf16, 8 rows"
  profile_kernel statistics head "960 to 49152"
}

find_library || fail "there is no library that works here"
for part in "${parts[@]}"; do
  echo "---- $part"
  start=$SECONDS
  "part_$part"
  printf '%s\t%s\t%s\n' "$part" $? $((SECONDS - start)) >>"$work/parts.tsv"
  "$python" "$here/table.py" "$work" "$name" "$device" >/dev/null
done
nvidia-smi --query-gpu=clocks.sm,clocks.mem,temperature.gpu,power.draw --format=csv
echo "---- $device, $SECONDS s, $name.json"
"$python" "$here/table.py" "$work" "$name" "$device"
