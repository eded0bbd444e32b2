#!/usr/bin/env bash
# All that must hold before a change lands, quick things first: format, lints, tests, documentation.
set -euo pipefail
cd "$(dirname "$0")/.."
step() { printf '\n== %s\n' "$*"; "$@"; }
step cargo fmt --check
step cargo clippy --release --all-targets -- -D warnings
step cargo test --release
RUSTDOCFLAGS="-D warnings" step cargo doc --release --no-deps
