#!/usr/bin/env python3
"""Compares our Q8_0 with ggml's, byte for byte.

    pip install libggml-python==0.20.2.post1 numpy
    TINYLLM_Q8_0_OUT=/tmp/q8 cargo test --release --test gguf q8_0      (writes rows.f32 and ours.q8_0 there)
    python scripts/check_q8_0.py /tmp/q8

When they agree, the number that `tests/gguf.rs` holds is that of ggml's bytes; then no Python is needed again.
"""

import ctypes
import pathlib
import sys

import numpy


def library() -> ctypes.CDLL:
    """The libggml-base of whichever package has it."""
    for folder in map(pathlib.Path, sys.path):
        for path in folder.glob("*ggml*/**/libggml-base.so*"):
            return ctypes.CDLL(str(path))
    sys.exit("no libggml-base.so: pip install libggml-python==0.20.2.post1")


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    rows = numpy.fromfile(folder / "rows.f32", dtype=numpy.float32)
    ours = (folder / "ours.q8_0").read_bytes()
    theirs = ctypes.create_string_buffer(rows.size // 32 * 34)
    quantize = library().quantize_row_q8_0_ref
    quantize.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    quantize.restype = None
    quantize(rows.ctypes.data, theirs, rows.size)
    differ = sum(a != b for a, b in zip(ours, theirs.raw))
    print(f"{len(ours)} bytes, {differ} differ")
    sys.exit(differ != 0 or len(ours) != len(theirs.raw))


main()
