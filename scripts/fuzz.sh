#!/usr/bin/env bash
# Fuzzes the readers of files that come from elsewhere, and every block format, guided by coverage, on stable Rust.
#
#   scripts/fuzz.sh [SECONDS [TARGET...]]     each target for so many seconds (10), all of them or those named (tests/fuzz/targets)
#
# What is found lies in target/fuzz/found/TARGET; to see it again: scripts/fuzz.sh again TARGET FILE.
# It takes a C++ compiler for libFuzzer; where there is none it says "skipped".
set -euo pipefail
cd "$(dirname "$0")/.."

compiler=${CXX:-c++}
if ! command -v "$compiler" >/dev/null; then
    echo "skipped: no $compiler, and libFuzzer is C++: apt-get install g++"
    exit 0
fi
again=
if [[ ${1:-} == again ]]; then
    [[ $# -eq 3 ]] || { sed -n 's/^#   //p' "$0" >&2; exit 2; }
    again=$(realpath "$3")
    set -- 0 "$2"
fi
seconds=${1:-10}
shift || true
mapfile -t all < <(sed -n 's/^path = "targets\/\(.*\)\.rs"/\1/p' tests/fuzz/Cargo.toml)
targets=("${@:-${all[@]}}")

# What libFuzzer is guided by: counters of edges, their places, and the operands of comparisons. Only an address sanitizer would take nightly.
flags=(-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares)
host=$(rustc -vV | sed -n 's/^host: //p')
out=$PWD/target/fuzz
# With --target the flags are for what runs, not for build scripts and macros.
RUSTFLAGS="${flags[*]}" CARGO_TARGET_DIR=$out cargo build --release --manifest-path tests/fuzz/Cargo.toml --target "$host" --locked --bins

scratch=$(mktemp -d -p /dev/shm 2>/dev/null || mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export TMPDIR=$scratch RAYON_NUM_THREADS=1
failed=()
for target in "${targets[@]}"; do
    printf '\n== %s\n' "$target"
    program=$out/$host/release/$target
    if [[ -n $again ]]; then
        "$program" "$again"
        continue
    fi
    corpus=$out/corpus/$target found=$out/found/$target
    mkdir -p "$corpus" "$found"
    if ! TINYLLM_FUZZ_SEEDS=$corpus "$program" -max_total_time="$seconds" -max_len=65536 -timeout=10 -rss_limit_mb=2048 \
        -malloc_limit_mb=512 -print_final_stats=1 -artifact_prefix="$found/" "$corpus" >"$out/$target.log" 2>&1; then
        failed+=("$target")
        tail -n 40 "$out/$target.log"
    else
        grep -a 'DONE  *cov' "$out/$target.log"
    fi
done
if ((${#failed[@]})); then
    printf '\nfound something: %s\n' "${failed[*]}"
    exit 1
fi
