#!/usr/bin/env bash
# symbols_test.sh HEADER LIBRARY OBJECT...: the library exports the functions of the header and nothing else, needs no C++
# runtime, and no object of a vector instruction set offers weak symbols: the linker might keep such a copy for everyone.
set -euo pipefail
header=$1 library=$2
shift 2
failed=0

declared=$(sed -n 's/^FTH_API.*[ *]\(fth_[a-z_0-9]*\)(.*/\1/p' "$header" | sort)
exported=$(nm --dynamic --defined-only --format=posix "$library" | cut -d' ' -f1 | sort)
if ! difference=$(diff <(echo "$declared") <(echo "$exported")); then
  echo "Declared (<) and exported (>) functions differ:"
  echo "$difference"
  failed=1
fi

if readelf --dynamic "$library" | grep -E 'NEEDED.*(stdc\+\+|c\+\+|gcc_s)'; then
  echo "The library needs a C++ runtime."
  failed=1
fi

for object in "$@"; do
  case $object in
    */avx*)
      if nm --defined-only "$object" | grep -E ' [uVvWw] '; then
        echo "$object exports weak symbols."
        failed=1
      fi ;;
  esac
done
exit $failed
