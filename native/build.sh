#!/usr/bin/env bash
# What Maven runs for the native part: build.sh check | build [skip tests: true | false] | test. Products go to
# build/native.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=build/native

missing() {
  echo "error: $1" >&2
  exit 1
}

# Looks where Maven looks for toolchains. A JDK's `release` file names its version.
has_jdk() {
  local homes home version
  homes=("${JAVA_HOME:-}" "${JDK_HOME:-}" "${JAVA25_HOME:-}" /usr/lib/jvm/* /usr/java/* /usr/jdk/* /opt/java/*
         "$HOME"/.jdks/* "$HOME"/.m2/jdks/* "$HOME"/.sdkman/candidates/java/* "$HOME"/.gradle/jdks/*
         "$HOME"/.jenv/versions/* "$HOME"/.jbang/cache/jdks/* "$HOME"/.asdf/installs/java/* "$HOME"/.jabba/jdk/*)
  if command -v java >/dev/null; then homes+=("$(readlink -f "$(command -v java)")"/../..); fi
  for home in "${homes[@]}"; do
    [ -x "$home/bin/javac" ] && [ -r "$home/release" ] || continue
    version=$(sed -n 's/^JAVA_VERSION="\([0-9]*\).*/\1/p' "$home/release")
    [ "${version:-0}" -ge 25 ] && return
  done
  [ -e "$HOME/.m2/toolchains.xml" ]
}

case ${1:-} in
  check)
    [ "$(uname -sm)" = "Linux x86_64" ] || missing "Fathom builds on Linux x86-64 only, this is $(uname -sm)."
    command -v cmake >/dev/null ||
      missing "cmake is missing: install CMake 3.22 or later (Debian, Ubuntu: apt install cmake)."
    command -v "${CXX:-c++}" >/dev/null ||
      missing "No C++ compiler: install GCC 12 or Clang 15, or later (Debian, Ubuntu: apt install g++)."
    command -v ninja >/dev/null || command -v make >/dev/null ||
      missing "Neither ninja nor make is there: install one (Debian, Ubuntu: apt install ninja-build)."
    has_jdk || missing "No JDK 25 or later was found: install one (https://adoptium.net) and point JAVA_HOME at it."
    ;;
  build)
    # A configured folder keeps its generator.
    if [ ! -e $folder/CMakeCache.txt ] && [ -z "${CMAKE_GENERATOR:-}" ] && command -v ninja >/dev/null; then
      export CMAKE_GENERATOR=Ninja
    fi
    cmake -S . -B $folder -DCMAKE_BUILD_TYPE=Release --log-level=WARNING
    if [ "${2:-false}" = true ]; then target=(--target fathom); else target=(); fi # skipTests: the library will do
    cmake --build $folder --parallel "$(nproc)" "${target[@]}"
    ;;
  test) ctest --test-dir $folder --output-on-failure --parallel "$(nproc)" ;;
  *) missing "usage: native/build.sh check | build [true | false] | test" ;;
esac
