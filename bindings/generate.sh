#!/usr/bin/env bash
# Regenerates the classes of dev.fathom.ffi from the C header with the jextract on the PATH. The result is committed;
# the build never runs this. A function or struct that is new in the header also needs its line in fathom.includes.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v jextract >/dev/null || { echo "jextract is not on the PATH; see https://jdk.java.net/jextract" >&2; exit 1; }
package=bindings/src/main/java/dev/fathom/ffi

# jextract overwrites but never deletes.
find $package -name '*.java' ! -name FathomLibrary.java ! -name package-info.java -delete
jextract --output bindings/src/main/java --target-package dev.fathom.ffi \
         --header-class-name Fathom --symbols-class-name Layouts \
         -I native/include @bindings/fathom.includes native/include/fathom/fathom.h

# Symbols come from the one library that our loader opened, not from whatever the class loader has loaded.
sed -i '/SYMBOL_LOOKUP = /,/;/c\    static final SymbolLookup SYMBOL_LOOKUP = FathomLibrary.lookup();' $package/Fathom*.java
# Where an enum stands in the header would change the classes whenever a line moves.
sed -i 's/enum enum (unnamed at [^)]*)\.\(.*\)/enum { \1 }/' $package/Fathom*.java
