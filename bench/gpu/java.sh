#!/usr/bin/env bash
# The Java API on a CUDA device, from what runtime.sh put into build/gpu/java.tar.xz: the command line, and what the
# boundary costs. OUT: where java-DEVICE.json goes (default bench/results, with the date). CONTEXT=cpu tries it without.
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
packed=$root/build/gpu/java.tar.xz
context=${CONTEXT:-cuda}
out=${OUT:-$root/bench/results}
fail() {
  echo "error: $1" >&2
  exit 2
}
[ -e "$packed" ] || fail "there is no runtime in build/gpu/java.tar.xz: bench/gpu/runtime.sh makes it"
device=cpu
if [ "$context" = cuda ]; then
  device=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1)
  [ -n "$device" ] || fail "there is no CUDA device here; CONTEXT=cpu bench/gpu/java.sh runs the same on the CPU."
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
from=$work/java
"${PYTHON:-python3}" -m tarfile -e "$packed" "$from" || fail "build/gpu/java.tar.xz cannot be unpacked"
library=$root/build/device/libfathom.so # run.sh built it here
if [ ! -e "$library" ]; then
  "${PYTHON:-python3}" -m tarfile -e "$root/build/gpu/native.tar.xz" "$work" ||
    fail "bench/gpu/pack.sh makes the library"
  library=$work/libfathom.so
fi
java=("$from/runtime/bin/java" -Dfathom.library="$library" --enable-native-access=ALL-UNNAMED -XX:+UseSerialGC)
fathom() { timeout -k 5 60 "${java[@]}" -cp "$from/fathom-examples.jar:$from/lib/*" dev.fathom.examples.Main "$@"; }
failed=0

echo "---- info"
fathom info || failed=1
echo "---- generate: the same text from both, as far as rounding does not choose another token"
for where in cpu $context; do
  fathom generate --device $where --dtype f32 --temperature 0 --tokens 120 --color never --prompt "ROMEO:" \
    >"$work/$where" || failed=1
  cat "$work/$where"
done
# All but the last line, which is of speed.
same=$(cmp <(head -n -1 "$work/cpu") <(head -n -1 "$work/$context") >/dev/null && echo true || echo false)
echo "same text: $same"
echo "---- boundary"
mkdir -p "$out"
boundary=$(timeout -k 5 60 "${java[@]}" -cp "$from/classes:$from/lib/*" BoundaryTimes "$context") || failed=1
echo "$boundary"
facts=$(tail -n 1 "$work/$context" | tr -d '"\\')
name=$out/$(date +%F)-java-$(echo "$device" | tr 'A-Z ' 'a-z-' | tr -cd 'a-z0-9.-').json
printf '{"device": "%s", "same_text": %s, "generate": "%s", "boundary": %s}\n' "$device" "$same" "$facts" \
  "${boundary:-null}" >"$name"
exit $failed
