#!/usr/bin/env python3
"""Holds `tinyllm-run quantize` to llama.cpp's own quantizer: the same format for each tensor, the same bytes, at what speed.

    scripts/check_filetypes.py [--presets 30m,124m] [--types q4_k_m,q8_0] [--threads 2] [--profile release]

Models with random weights (written by `tests/quant.rs`) are quantized by both, into every type; without --presets they are
small ones with the depths of the five sizes. libllama comes from the npm package @node-llama-cpp/linux-x64.

Exit status: 0 agreed, or skipped (said in a line that begins with "skipped"); 1 disagreed.
"""

import argparse
import ctypes
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import gguf_tensors
import libllama
import oracle_env

TYPES = {
    "f32": 0, "f16": 1, "bf16": 32, "q8_0": 7, "q6_k": 18, "q5_1": 9, "q5_k_m": 17, "q5_k_s": 16, "q5_0": 8, "q4_1": 3,
    "q4_k_m": 15, "q4_k_s": 14, "q4_0": 2, "q3_k_l": 13, "q3_k_m": 12, "q3_k_s": 11, "q2_k": 10,
}  # fmt: skip


def tensors(path):
    """name -> (number of the type, bytes); the file's size."""
    data, found = gguf_tensors.read(path)
    starts = sorted(start for *_, start in found)
    ends = dict(zip(starts, [*starts[1:], len(data)]))
    # What follows a tensor up to the next one is padding of zeros, the same in both.
    return {name: (kind, data[start : ends[start]].rstrip(b"\0")) for name, _, kind, start in found}, len(data)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", default="", help="sizes by name, with GPT-2's vocabulary")
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--profile", default="release", help="of cargo")
    args = parser.parse_args()
    lib = libllama.library()
    cargo = lambda *a, **env: subprocess.run(["cargo", *a, "--quiet", "--profile", args.profile], cwd=oracle_env.ROOT, check=True, env={**os.environ, **env}, stdout=subprocess.DEVNULL)
    cargo("build", "--bin", "tinyllm-run")
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", oracle_env.ROOT / "target"))
    run = target / {"dev": "debug"}.get(args.profile, args.profile) / "tinyllm-run"
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        env = {"TINYLLM_MODELS": str(folder), **({"TINYLLM_PRESETS": args.presets} if args.presets else {})}
        command = ["cargo", "test", "--quiet", "--profile", args.profile, "--test", "quant", "models_for_llama_cpp", "--", "--ignored"]
        subprocess.run(command, cwd=oracle_env.ROOT, check=True, env={**os.environ, **env}, stdout=subprocess.DEVNULL)
        for model in sorted(folder.glob("*.gguf")):
            for kind in args.types.split(","):
                wrong += compare(lib, run, model, kind, args.threads)
    sys.exit(wrong > 0)


def compare(lib, run, model, kind, threads):
    ours, theirs = model.with_suffix(".ours"), model.with_suffix(".theirs")
    start = time.time()
    out = subprocess.run([run, "quantize", model, ours, "--type", kind, "-t", str(threads), "--json"], check=True, capture_output=True)
    seconds = time.time() - start
    params = lib.llama_model_quantize_default_params()
    params.nthread, params.ftype = threads, TYPES[kind]
    start = time.time()
    if lib.llama_model_quantize(str(model).encode(), str(theirs).encode(), ctypes.byref(params)) != 0:
        print(f"{model.stem} {kind}: llama.cpp does not quantize it")
        ours.unlink()
        return 0
    their_seconds = time.time() - start
    (a, size), (b, their_size) = tensors(ours), tensors(theirs)
    other_types = [f"{n} ({a[n][0]}, llama.cpp {b[n][0]})" for n in b if n not in a or a[n][0] != b[n][0]]
    other_bytes = [n for n in b if n in a and a[n] != b[n]]
    bits = json.loads(out.stdout)["bits_per_weight"]
    print(
        f"{model.stem} {kind}: {len(b)} tensors, {len(other_types)} of another type, {len(other_bytes)} of other bytes; {size} bytes, llama.cpp {their_size}; "
        f"{bits:.3f} bits a weight; {seconds:.2f} s, llama.cpp {their_seconds:.2f} s: {their_seconds / seconds:.1f} times as fast",
        flush=True,
    )
    for what in (other_types + other_bytes)[:6]:
        print("   ", what)
    ours.unlink()
    theirs.unlink()
    return len(other_types) + len(other_bytes) + (size != their_size) + (set(a) != set(b))


main()
