#!/usr/bin/env bash
# Puts a Java runtime, the command line with its model, and the measure of the boundary into build/gpu/java.tar.xz, to
# be carried to the machine with the device: bench/gpu/runtime.sh, with JAVA_HOME a JDK 25, after ./mvnw package.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
target=$root/examples/target
to=$(mktemp -d)
trap 'rm -rf "$to"' EXIT
fail() {
  echo "error: $1" >&2
  exit 2
}
[ -n "${JAVA_HOME:-}" ] && [ -x "$JAVA_HOME/bin/jlink" ] || fail "JAVA_HOME must name a JDK 25 with jlink"
[ -e "$target/lib" ] || fail "the jars are not built: ./mvnw package -DskipTests -pl examples -am"
mkdir -p "$to/lib" "$root/build/gpu"
"$JAVA_HOME/bin/jlink" --add-modules java.base --strip-debug --no-header-files --no-man-pages --compress zip-0 \
  --vm server --output "$to/runtime"
cp "$target"/fathom-examples-*.jar "$to/fathom-examples.jar"
# Tokenizers bring native libraries, and the bundled model reads bytes.
for jar in "$target"/lib/*.jar; do
  case $(basename "$jar") in
    tokenizers-* | api-* | jna-* | commons-* | error_prone* | gson-*) ;;
    *) cp "$jar" "$to/lib" ;;
  esac
done
# The native library comes beside them.
mkdir "$to/bindings"
(cd "$to/bindings" && "$JAVA_HOME/bin/jar" xf "$to"/lib/fathom-bindings-*.jar && rm -r native &&
  "$JAVA_HOME/bin/jar" cf "$to"/lib/fathom-bindings-*.jar dev)
rm -r "$to/bindings"
"$JAVA_HOME/bin/javac" -cp "$to/lib/*" -d "$to/classes" "$root/bench/gpu/java/BoundaryTimes.java"
tar -C "$to" -c . | xz -T1 -9e --lzma2=dict=128MiB >"$root/build/gpu/java.tar.xz"
du -h "$root/build/gpu/java.tar.xz" | sed "s|$root/||"
