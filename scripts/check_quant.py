#!/usr/bin/env python3
"""Holds our block formats to ggml's: encoded bytes, decoded bits, and errors under importance.

    scripts/check_quant.py [--fixture tests/fixtures/quant.bin] [--profile release]

Rows of many kinds (random, constant, tiny, huge, sparse, with outliers, a trained model's where one is named with
--model FILE.gguf) are encoded by `tests/quant.rs` and by libggml's reference quantizers, and must be the same byte for byte.
Random bytes are decoded by both, and must be the same bit for bit. Under importance the weighted error of ours must not
be above that of ggml's own weighted quantizers. --fixture writes the blocks that `cargo test` holds without Python.

libggml comes from the PyPI package libggml-python. Exit status: 0 agreed, or skipped (said in a line that begins with
"skipped"); 1 disagreed.
"""

import argparse
import ctypes
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

import gguf_tensors
import oracle_env

oracle_env.require("numpy", "libggml=libggml-python==0.20.2.post1")

import numpy

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Name, number, weights and bytes of a block.
TYPES = [
    ("F16", 1, 1, 2),
    ("BF16", 30, 1, 2),
    ("Q8_0", 8, 32, 34),
    ("Q6_K", 14, 256, 210),
    ("Q5_1", 7, 32, 24),
    ("Q5_K", 13, 256, 176),
    ("Q5_0", 6, 32, 22),
    ("Q4_1", 3, 32, 20),
    ("Q4_K", 12, 256, 144),
    ("Q4_0", 2, 32, 18),
    ("Q3_K", 11, 256, 110),
    ("Q2_K", 10, 256, 84),
]
LONG = 256


def library() -> ctypes.CDLL:
    """The libggml-base of whichever package has it."""
    for folder in map(pathlib.Path, sys.path):
        for path in folder.glob("*ggml*/**/libggml-base.so*"):
            lib = ctypes.CDLL(str(path))
            chunk = lib.ggml_quantize_chunk
            chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [ctypes.c_void_p]
            chunk.restype = ctypes.c_size_t
            return lib
    oracle_env.skip("no libggml-base.so")


LIB = library()


def encode(name, number, bytes_out, rows, per_row, importance=None):
    """What ggml's quantizer writes."""
    out = numpy.zeros(bytes_out, dtype=numpy.uint8)
    if name == "BF16":
        fn = LIB.ggml_fp32_to_bf16_row_ref
        fn.argtypes, fn.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64], None
        fn(rows.ctypes.data, out.ctypes.data, rows.size)
    elif name == "F16":
        fn = LIB.ggml_fp32_to_fp16_row
        fn.argtypes, fn.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64], None
        fn(rows.ctypes.data, out.ctypes.data, rows.size)
    else:
        weights = importance.ctypes.data if importance is not None else None
        n = LIB.ggml_quantize_chunk(number, rows.ctypes.data, out.ctypes.data, 0, rows.size // per_row, per_row, weights)
        assert n == bytes_out, (name, n, bytes_out)
    return out


def decode(name, blocks, n):
    """What ggml's decoder writes."""
    out = numpy.zeros(n, dtype=numpy.float32)
    fn = {"BF16": "ggml_bf16_to_fp32_row", "F16": "ggml_fp16_to_fp32_row"}.get(name) or "dequantize_row_" + name.replace("Q", "q")
    fn = getattr(LIB, fn)
    fn.argtypes, fn.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64], None
    fn(blocks.ctypes.data, out.ctypes.data, n)
    return out


def kinds(rng, n):
    """Rows of `n` weights by kind; each kind in several scales."""
    normal = lambda *shape: rng.standard_normal(shape or n).astype(numpy.float32)
    yield "normal", normal() * numpy.float32(0.02)
    yield "unit normal", normal()
    yield "uniform", rng.uniform(-1, 1, n)
    yield "positive", rng.uniform(0.5, 1, n)
    yield "negative", rng.uniform(-1, -0.5, n)
    yield "shifted", rng.uniform(0, 1, n) + 100
    yield "constant", numpy.repeat(rng.standard_normal(n // LONG), LONG)
    yield "constant groups", numpy.repeat(rng.standard_normal(n // 16), 16)
    yield "zero", numpy.zeros(n)
    yield "negative zero", -numpy.zeros(n)
    yield "few values", rng.integers(-3, 4, n) * 0.25
    yield "halves", rng.integers(-255, 256, n) * 0.5
    yield "heavy tails", rng.standard_t(2, n)
    yield "student", rng.standard_t(1, n)
    yield "laplace", rng.laplace(size=n)
    sparse = rng.standard_normal(n) * (rng.uniform(size=n) < 0.03)
    yield "sparse", sparse
    yield "one a group", numpy.where(numpy.arange(n) % 32 == 7, rng.standard_normal(n), 0)
    outlier = rng.standard_normal(n) * 0.01
    outlier[rng.integers(0, n, n // LONG)] = 50
    yield "outliers", outlier
    yield "ramps", numpy.tile(numpy.arange(LONG), n // LONG) * numpy.repeat(rng.standard_normal(n // LONG), LONG)
    yield "groups of all sizes", rng.standard_normal(n) * numpy.repeat(2.0 ** rng.integers(-20, 12, n // 16), 16)
    for power in (-45, -40, -38, -36, -30, -24, -18, -16, -15, -14, -13, -10, -8, -7, -6, -5, -4, 3, 4, 5, 6, 8, 15, 18, 19, 30, 37, 38):
        yield f"normal, 1e{power}", numpy.clip(rng.standard_normal(n) * 10.0**power, -3e38, 3e38)
    yield "all magnitudes", rng.standard_normal(n) * 10.0 ** rng.uniform(-30, 10, n)
    yield "blocks of all magnitudes", rng.standard_normal(n) * numpy.repeat(10.0 ** rng.uniform(-44, 37, n // 32), 32)
    yield "any bits", numpy.nan_to_num(rng.integers(0, 2**32, n, dtype=numpy.uint32).view(numpy.float32), nan=0, posinf=1, neginf=-1)


def matrices(path):
    """A GGUF file's F32 and F16 matrices: enough of each for 2,000 blocks."""
    data, found = gguf_tensors.read(path)
    for name, dims, kind, start in found:
        if len(dims) == 2 and kind in (0, 1):
            n = dims[0] * min(dims[1], 512_000 // dims[0])
            values = numpy.frombuffer(data, {0: numpy.float32, 1: numpy.float16}[kind], n, start).astype(numpy.float32)
            yield name, values[: values.size // LONG * LONG]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, action="append", default=[], help="a trained model's GGUF, of F32 or F16")
    parser.add_argument("--fixture", type=pathlib.Path, help="write this file for `cargo test`")
    parser.add_argument("--profile", default="release", help="of cargo")
    args = parser.parse_args()
    rng = numpy.random.default_rng(4)
    # 300 blocks of 256 of each kind: some 15,000, and eight times as many of 32.
    named = [(kind, numpy.asarray(rows, dtype=numpy.float32)) for kind, rows in kinds(rng, 300 * LONG)]
    for path in args.model:
        named += list(matrices(path))
    rows = numpy.concatenate([r for _, r in named])
    noise = numpy.frombuffer(rng.bytes(2_000_000), dtype=numpy.uint8)
    importance = (rng.standard_normal(768) ** 2 * 10 ** rng.uniform(-2, 1, 768)).astype(numpy.float32)
    importance[100:105] = 0
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        rows.tofile(folder / "rows.f32")
        noise.tofile(folder / "noise")
        importance.tofile(folder / "importance.f32")
        test = ["cargo", "test", "--quiet", "--profile", args.profile, "--test", "quant", "serve_the_script", "--", "--ignored", "--nocapture"]
        subprocess.run(test, cwd=ROOT, check=True, env={**os.environ, "TINYLLM_QUANT": str(folder)})
        wrong = 0
        for name, number, length, size in TYPES:
            wrong += compare(folder, name, number, length, size, named, rows, noise)
            if length > 1:
                wrong += weighted(folder, name, number, length, size, rows, importance)
        if args.fixture:
            fixture(args.fixture, rng)
    sys.exit(wrong > 0)


def compare(folder, name, number, length, size, named, rows, noise):
    """How many blocks differ, said by kind."""
    ours = numpy.fromfile(folder / name, dtype=numpy.uint8).reshape(-1, size)
    theirs = encode(name, number, rows.size // length * size, rows, LONG).reshape(-1, size)
    differ = (ours != theirs).any(axis=1)
    starts = numpy.cumsum([0] + [r.size // length for _, r in named])
    for (kind, _), a, b in zip(named, starts, starts[1:]):
        if n := int(differ[a:b].sum()):
            print(f"{name}: {kind}: {n} of {b - a} blocks differ; the first is {a + int(differ[a:b].argmax())}")
    n = noise.size // size * length
    mine, right = numpy.fromfile(folder / f"{name}.decoded", dtype=numpy.float32), decode(name, noise, n)
    # What a NaN's bits are is nobody's promise.
    odd = int(((mine.view(numpy.uint32) != right.view(numpy.uint32)) & ~(numpy.isnan(mine) & numpy.isnan(right))).sum())
    print(f"{name}: {len(ours)} blocks, {int(differ.sum())} differ; decoded from noise: {n} weights, {odd} differ", flush=True)
    return int(differ.sum()) + odd


def weighted(folder, name, number, length, size, rows, importance):
    """Whether the error under importance is above that of ggml's weighted quantizer, and how far below that of the plain one."""
    part = rows[: importance.size * 64].copy()
    n = part.size // length * size
    loss = lambda blocks: float((importance * (part - decode(name, blocks, part.size)).reshape(-1, importance.size) ** 2).sum(dtype=numpy.float64))
    ours = loss(numpy.fromfile(folder / f"{name}.important", dtype=numpy.uint8))
    plain, theirs = loss(encode(name, number, n, part, 768)), loss(encode(name, number, n, part, 768, importance))
    print(f"{name}: weighted error {ours / plain:.4f} of the unweighted quantizer's; ggml's weighted one {theirs / plain:.4f}", flush=True)
    return int(ours > theirs * 1.001 or ours > plain)


def fixture(path, rng):
    """Rows (F32) and after them each type's blocks; what `tests/quant.rs` reads."""
    rows = numpy.concatenate([numpy.asarray(r, dtype=numpy.float32)[:LONG] for _, r in kinds(rng, 2 * LONG)])
    blocks = [encode(name, number, rows.size // length * size, rows, LONG).tobytes() for name, number, length, size in TYPES]
    path.write_bytes(struct.pack("<I", rows.size) + rows.tobytes() + b"".join(blocks))
    print(f"{path}: {rows.size} weights")


main()
