#!/usr/bin/env bash
# Runs nvcc and keeps what ptxas says of the kernels beside the object, for tests/native/cuda_resources_test.sh; the rest
# is passed on.
set -uo pipefail
object=
for ((i = 1; i < $#; i++)); do
  if [ "${!i}" = -o ]; then next=$((i + 1)) object=${!next}; fi
done
all=$(mktemp)
trap 'rm -f "$all"' EXIT
"$@" -Xptxas -v 2>"$all"
status=$?
if [ -n "$object" ]; then grep '^ptxas' "$all" >"$object.ptxas"; grep -A1 'Function properties' "$all" >>"$object.ptxas"; fi
grep -v -E '^ptxas info|^    [0-9]+ bytes stack frame' "$all" >&2
exit $status
