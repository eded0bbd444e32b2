#!/usr/bin/env bash
# Looks through a program for instructions that became functions: an intrinsic that was not inlined into a function with its features is
# called, for every vector anew, and a kernel around it is an order slower, with the right results.
#
#   scripts/check_inlined.sh PROGRAM
#
# It takes `nm`; where there is none it says "skipped".
set -euo pipefail
program=${1:?which program?}
nm=${NM:-nm}
if ! command -v "$nm" >/dev/null; then
    echo "skipped: no $nm, which reads a program's symbols"
    exit 0
fi
# Asking the processor what it has is done once, and may be called.
calls=$("$nm" -C "$program" | grep -o 'core::core_arch::.*' | grep -vE '_xgetbv|__cpuid|__get_cpuid' | sort | uniq -c || true)
if [[ -n $calls ]]; then
    printf '%s: these are called and not inlined; look for closures around them:\n%s\n' "$program" "$calls"
    exit 1
fi
symbols=$("$nm" -C "$program" | grep -c 'tinyllm::' || true)
[[ $symbols -gt 100 ]] || { echo "$program: only $symbols symbols of ours: was it stripped?"; exit 1; }
echo "$program: every instruction is inlined"
