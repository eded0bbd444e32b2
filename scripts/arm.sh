#!/usr/bin/env bash
# Builds tinyllm-run for 64-bit ARM boards, as one static file, and tries it under emulation of a Cortex-A53 (Raspberry Pi 3, Orange Pi Zero 2W),
# a Cortex-A76 (Raspberry Pi 5, Orange Pi 5) and of all that the emulator knows ("max").
#
#   scripts/arm.sh build                                the program: target/arm/aarch64-unknown-linux-gnu/release/tinyllm-run
#   scripts/arm.sh test                                 the tests of kernels and of packing
#   scripts/arm.sh classify MODEL.gguf READINGS.csv     labels the readings
#   scripts/arm.sh count MODEL.gguf [FUNCTIONS]         instructions of a generated token, of a prompt token and from start
#
# Where what it takes is not there it is installed: on Debian, as root, by apt-get; elsewhere it says "skipped" and is done.
set -euo pipefail
target=aarch64-unknown-linux-gnu
cpus=(cortex-a53 cortex-a76 max)

usage() {
    sed -n 's/^#   //p' "$0" >&2
    exit 2
}
skip() {
    echo "skipped: $*"
    exit 0
}

# The standard library for the target: rustup's toolchain may have it, else Debian's own compiler has it in a package.
has_target() { [[ -d $("$1" --print target-libdir --target $target 2>/dev/null) ]]; }
install() {
    [[ -x $(command -v apt-get) ]] || skip "no $1, and no apt-get to install it with"
    ((EUID == 0)) || skip "no $1, and only root can install it: apt-get install $2"
    echo "installing $2" >&2
    export DEBIAN_FRONTEND=noninteractive
    if ! { apt-get update -q && apt-get install -y -q --no-install-recommends $2; } >/dev/null 2>"$work/apt"; then
        tail -n 3 "$work/apt" >&2
        skip "no $1, and apt-get does not give $2"
    fi
}
install_rust() {
    dpkg --add-architecture arm64
    install "Rust for $target" rustc-web
    has_target /usr/bin/rustc && return
    # Only the archive's files: its dependencies are a whole LLVM for ARM that a cross build does not need.
    chmod 755 "$work"
    (cd "$work" && apt-get download -q libstd-rust-web-dev:arm64 && dpkg -x ./*.deb std) >/dev/null 2>&1 ||
        skip "no Rust for $target, and apt-get does not give libstd-rust-web-dev:arm64"
    cp -r "$work/std/usr/lib/rustlib/$target" /usr/lib/rustlib/
}
prepare() {
    command -v aarch64-linux-gnu-gcc >/dev/null || install "linker for $target" "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
    command -v qemu-aarch64 >/dev/null || install "emulator" qemu-user
    if ! has_target "${RUSTC:-rustc}"; then
        [[ -x /usr/bin/rustc ]] && has_target /usr/bin/rustc || install_rust
        export RUSTC=/usr/bin/rustc
    fi
    local have need
    have=$("${RUSTC:-rustc}" --version | cut -d ' ' -f 2)
    need=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    [[ $(printf '%s\n' "$need" "$have" | sort -V | head -n 1) == "$need" ]] || skip "Rust for $target is $have; $need is needed"
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static"
    export CARGO_TARGET_DIR=$PWD/target/arm # its own: another compiler than the host's would build all anew, again and again
}
build() {
    cargo build --release --target $target --bin tinyllm-run
    run=$CARGO_TARGET_DIR/$target/release/tinyllm-run
}

[[ $# -ge 1 ]] || usage
command=$1
shift
case $command in
build | test) [[ $# -eq 0 ]] || usage ;;
classify) [[ $# -eq 2 ]] || usage ;;
count) [[ $# -eq 1 || $# -eq 2 ]] || usage ;;
*) usage ;;
esac
for i in 1 2; do # paths, before the folder changes
    [[ $i -gt $# || ! -e ${!i} ]] || set -- "${@:1:i-1}" "$(realpath "${!i}")" "${@:i+1}"
done
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
prepare

case $command in
build)
    build
    ls -l "$run"
    ;;
test)
    tests=$(cargo test --release --target $target --lib --no-run --message-format=json | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
    for cpu in "${cpus[@]}"; do
        echo "== $cpu"
        qemu-aarch64 -cpu "$cpu" "$tests" --quiet simd:: packed::
    done
    ;;
classify)
    build
    for cpu in "${cpus[@]}"; do
        echo "== $cpu"
        qemu-aarch64 -cpu "$cpu" "$run" classify "$1" "$2" -t 1
    done
    ;;
count)
    command -v python3 >/dev/null || skip "no python3"
    build
    cc -O2 -shared -fPIC scripts/icount.c -o "$work/libicount.so"
    on=()
    if qemu-aarch64 "$run" generate --help | grep -q ignore-eos; then on=(--ignore-eos); fi
    for cpu in cortex-a53 cortex-a76; do
        echo "== $cpu"
        python3 scripts/arm_count.py --cpu "$cpu" --plugin "$work/libicount.so" --top "${2:-0}" -- \
            "$run" generate "$1" -t 1 --temp 0 --repeat-penalty 1 "${on[@]}" -p '{prompt}' -n '{n}'
    done
    ;;
esac
