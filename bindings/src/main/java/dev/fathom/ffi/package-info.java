/**
 * The C interface as jextract renders it, and the loader of the library. {@code bindings/generate.sh} makes all
 * classes but {@link dev.fathom.ffi.FathomLibrary}; use {@code dev.fathom} rather than these: nothing is checked
 * here.
 */
package dev.fathom.ffi;
