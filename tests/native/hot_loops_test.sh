#!/bin/sh
# The compiled products: every instruction set's dot instruction is there, and no innermost loop around it moves vectors
# to the stack and back. usage: hot_loops_test.sh LIBRARY
set -eu
command -v objdump >/dev/null || { echo "objdump (binutils) is not on the PATH: nothing was checked"; exit 0; }

objdump -d -C --no-show-raw-insn "$1" | awk '
  # An innermost loop: a jump back over no other one. Dots: the products in it.
  function finish_function(    i, j, at, last, dots, kind, bad) {
    last = 0  # instructions up to here belong to a loop that has been looked at
    for (i = 1; i <= size; i++) {
      if (!(i in target) || !(target[i] in index_of)) continue
      at = index_of[target[i]]
      if (at > i || at <= last) continue
      dots = 0; bad = ""
      for (j = at; j <= i; j++) {
        if (text[j] ~ /^(vpdpbusd|vdpbf16ps|vpmaddubsw|vfmadd[0-9]+ps)/ && text[j] ~ /[yz]mm/) {
          dots++
          kind = text[j]; sub(/[ \t].*/, "", kind); if (kind ~ /^vfmadd/) kind = "vfmaddps"
          if (text[j] ~ /zmm/) kind = kind " zmm"; else kind = kind " ymm"
        }
        if (text[j] ~ /^vmov.*\(%rsp/ && text[j] ~ /[yz]mm/) bad = text[j]
      }
      last = i
      if (dots < 4) continue
      loops[kind]++
      if (bad != "" && name ~ /linear/ && name !~ /activate|finish/) {
        print "vectors on the stack in a loop of " dots " products: " name
        print "  " bad
        failed = 1
      }
    }
    size = 0
    delete index_of; delete target; delete text
  }
  /^[0-9a-f]+ <.*>:$/ { finish_function(); name = $0; next }
  /^ *[0-9a-f]+:/ {
    size++
    where = $1; sub(/:/, "", where)
    index_of[where] = size
    instruction = $0; sub(/^ *[0-9a-f]+:[ \t]*(\{vex\} )?/, "", instruction)
    text[size] = instruction
    if (instruction ~ /^j/) target[size] = $3
  }
  END {
    finish_function()
    for (kind in loops) print loops[kind] " loops of " kind
    split("vfmaddps zmm,vfmaddps ymm,vdpbf16ps zmm,vpdpbusd zmm,vpdpbusd ymm,vpmaddubsw ymm", wanted, ",")
    for (i in wanted) if (!(wanted[i] in loops)) { print "no loop of " wanted[i]; failed = 1 }
    exit failed
  }'
