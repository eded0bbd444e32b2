#!/usr/bin/env bash
# Compiles every CUDA kernel for sm_80 and sm_90a, without a GPU: by the NVRTC of NVIDIA's wheel, which it installs under
# target/nvrtc. Prints registers and spills; fails where a heavy kernel spills, or where a file written for Hopper's tensor cores
# ends up without their instruction (HGMMA). Where pip cannot install, it says "skipped:" and ends well (with 77 where
# TINYLLM_ORACLE=required is set).
set -euo pipefail
cd "$(dirname "$0")/.."
tools=${CARGO_TARGET_DIR:-target}/nvrtc
skip() {
    echo "skipped: check_kernels.sh: $*"
    [ "${TINYLLM_ORACLE:-}" != required ] || exit 77
    exit 0
}
install() { # a package, into a folder of its own: pip takes two of one namespace for the same thing
    [ -d "$tools/$1" ] && return
    echo "installing $1 into $tools" >&2
    export PIP_ROOT_USER_ACTION=ignore
    python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$tools/$1.new" "$1" >&2 && mv "$tools/$1.new" "$tools/$1"
}

install nvidia-cuda-nvrtc || skip "it needs the package nvidia-cuda-nvrtc, and pip cannot install it"
library=$(dirname "$(find "$tools" -name 'libnvrtc.so.*' -print -quit)")
program=${TINYLLM_TRAIN:-} # a build that is there already
if [ -z "$program" ]; then
    cargo build --release --quiet --bin tinyllm-train
    program=${CARGO_TARGET_DIR:-target}/release/tinyllm-train
fi
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
sizes=${TINYLLM_SIZES:-32,64,128} # channels of a head
export LD_LIBRARY_PATH="$library${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
"$program" kernels --arch sm_80,sm_90a --sizes "$sizes" --out "$out" --strict

install nvidia-cuda-nvdisasm || skip "HGMMA is not looked for: pip cannot install nvidia-cuda-nvdisasm"
disassembler=$(find "$tools" -name nvdisasm -type f -print -quit)
chmod +x "$disassembler"
for source in kernels/*_sm90*.cu; do
    grep -q __global__ "$source" || continue # not written yet
    for cubin in "$out/$(basename "$source" .cu)"-*sm_90a*.cubin; do
        count=$("$disassembler" "$cubin" | grep -c HGMMA || true)
        echo "$(basename "$cubin"): $count HGMMA"
        [ "$count" -gt 0 ] || { echo "$source does not use Hopper's tensor cores" >&2; exit 1; }
    done
done
