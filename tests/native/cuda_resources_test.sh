#!/usr/bin/env bash
# cuda_resources_test.sh FOLDER: in the reports that ptxas left below the folder, no kernel spills registers or keeps a
# stack frame, and no wgmma is serialised.
set -euo pipefail
mapfile -t reports < <(find "$1" -name '*.ptxas')
if [ ${#reports[@]} -eq 0 ] || ! grep -q 'bytes stack frame' "${reports[@]}"; then
  echo "No kernel was reported below $1."
  exit 1
fi
failed=0
if grep -B1 -E '[1-9][0-9]* bytes (stack frame|spill)' "${reports[@]}"; then
  echo "Kernels above spill or keep a stack frame."
  failed=1
fi
if grep -i 'serialized' "${reports[@]}"; then
  echo "Products above are serialised."
  failed=1
fi
exit $failed
