#!/usr/bin/env bash
# symbols_test.sh HEADER LIBRARY OBJECT...: the library exports the functions of the header and nothing else, needs no
# C++ runtime and no newer glibc than README.md asks for, and no object of a vector instruction set offers weak symbols:
# the linker might keep such a copy for everyone.
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

glibc=$(objdump -T "$library" | grep -o 'GLIBC_[0-9.]*' | sort --version-sort --unique)
if [ -z "$glibc" ]; then
  echo "No version of glibc was found in the library."
  failed=1
elif [ "$(printf '%s\nGLIBC_2.34\n' "$glibc" | sort --version-sort | tail -1)" != GLIBC_2.34 ]; then
  echo "The library needs glibc $(tail -1 <<<"$glibc"), README.md promises 2.34."
  objdump -T "$library" | grep "$(tail -1 <<<"$glibc")"
  failed=1
fi

vector=()
for object in "$@"; do
  case $object in */avx*) vector+=("$object") ;; esac
done
if nm --defined-only --print-file-name "${vector[@]}" | grep -E ' [uVvWw] '; then
  echo "Objects of vector instruction sets export weak symbols."
  failed=1
fi
exit $failed
