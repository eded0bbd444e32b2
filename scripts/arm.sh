#!/usr/bin/env bash
# Builds tinyllm-run for 64-bit ARM boards, as one static file, and tries it under emulation of a Cortex-A53 (Raspberry Pi 3, Orange Pi Zero 2W),
# a Cortex-A76 (Raspberry Pi 5, Orange Pi 5) and of all that the emulator knows ("max").
#
#   scripts/arm.sh build                                the program: target/arm/aarch64-unknown-linux-gnu/release/tinyllm-run
#   scripts/arm.sh test                                 the tests of kernels, packing and formats, and of whole sessions
#   scripts/arm.sh classify MODEL.gguf READINGS.csv [HERE]
#                                                       labels the readings; HERE, a tinyllm-run of this machine, must say the same
#   scripts/arm.sh count MODEL.gguf [FUNCTIONS]         instructions of a generated token, of a prompt token and from start
#
# Where what it takes is not there it is installed: on Debian, as root, by apt-get; elsewhere it says "skipped" and is done.
set -euo pipefail
target=aarch64-unknown-linux-gnu
cpus=(cortex-a53 cortex-a76 max)
declare -A dots=([cortex-a53]=neon [cortex-a76]=dotprod [max]=i8mm) # what products are to be made of on each
# Engines round activations to 8 bits and keys to 16 after sums in orders of their own, so that single roundings fall the other way. On 140
# windows of the quickstart probabilities differ by 0.0015 at most between AVX-512 and plain loops; a wrong kernel shows in all digits.
room=0.01

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

# Whether two lists of labelled windows give each label the same probability, so that labels differ in a tie at most.
agree() {
    paste "$1" "$2" | awk -F '\t' -v room=$room '
        function probs(line, out,   n, i) {
            sub(/.*"probs":[{]/, "", line); sub(/[}].*/, "", line)
            n = split(line, out, ",")
            for (i = 1; i <= n; i++) { sub(/.*:/, "", out[i]); out[i] += 0 }
            return n
        }
        function label(line) { sub(/.*"label":"/, "", line); sub(/".*/, "", line); return line }
        {
            n = probs($1, here); far = n < 2 || n != probs($2, there)
            for (i = 1; i <= n; i++) {
                away = here[i] - there[i]; if (away < 0) away = -away
                if (away > most) most = away
                if (away > room) far = 1
            }
            same += label($1) == label($2)
            if (far) { wrong++; print "line " NR ": " $1 "\n     not " $2 }
        }
        END {
            printf "%d windows, %d labelled the same; probabilities are at most %.5f apart, %s is allowed\n", NR, same, most, room
            exit NR == 0 || wrong > 0
        }'
}

[[ $# -ge 1 ]] || usage
command=$1
shift
case $command in
build | test) [[ $# -eq 0 ]] || usage ;;
classify) [[ $# -eq 2 || $# -eq 3 ]] || usage ;;
count) [[ $# -eq 1 || $# -eq 2 ]] || usage ;;
*) usage ;;
esac
for i in 1 2 3; do # paths, before the folder changes
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
    mapfile -t tests < <(cargo test --release --target $target --lib --test quant --test session --no-run --message-format=json |
        sed -n '/"test":true},"features"/s/.*"executable":"\([^"]*\)".*/\1/p' | sort)
    [[ ${#tests[@]} -eq 3 ]] || exit 1 # quant, session and the library's own
    for cpu in "${cpus[@]}"; do
        echo "== $cpu"
        TINYLLM_EXPECTED_DOTS=${dots[$cpu]} qemu-aarch64 -cpu "$cpu" "${tests[2]}" --quiet simd:: packed:: quant:: kernels::
        TINYLLM_EXPECTED_DOTS=${dots[$cpu]} qemu-aarch64 -cpu "$cpu" "${tests[2]}" --nocapture the_best_set | grep 'products by'
        qemu-aarch64 -cpu "$cpu" "${tests[0]}" --quiet
    done
    # Whole sessions take minutes: on one, whose kernels differ most from this machine's.
    echo "== sessions on ${cpus[0]}"
    qemu-aarch64 -cpu "${cpus[0]}" "${tests[1]}" --quiet
    ;;
classify)
    build
    [[ $# -eq 2 ]] || "$3" classify "$1" "$2" --json >"$work/here"
    for cpu in "${cpus[@]}"; do
        echo "== $cpu"
        qemu-aarch64 -cpu "$cpu" "$run" classify "$1" "$2" -t 1 --json >"$work/there"
        if [[ $# -eq 2 ]]; then cat "$work/there"; else agree "$work/here" "$work/there"; fi
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
