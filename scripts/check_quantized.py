#!/usr/bin/env python3
"""Holds the answers of quantized files to llama.cpp's from the same files, on a text.

    scripts/check_quantized.py --run target/release/tinyllm-run --f32 model-f32.gguf --text held-out.txt [--types q8_0,q4_k_m] [--imatrix TEXT]

The model, a trained one, is quantized by `tinyllm-run` into each type; llama.cpp must load the file, tokenize the text as we do, hold the
same token for the likeliest at 99 % of at least 1,000 places, and come to the same perplexity within 0.5 %, by the same
definition (`tinyllm-run perplexity --help`). Shown, too, is the divergence of llama.cpp's probabilities from ours over our 100
likeliest tokens. Random models say nothing here: all their tokens are as likely. libllama comes from the npm package that `libllama.py` names.

Exit status: 0 agreed, or skipped (said in a line that begins with "skipped"); 1 disagreed.
"""

import argparse
import collections
import json
import math
import pathlib
import subprocess
import sys
import tempfile

import libllama

TYPES = "q8_0,q6_k,q5_k_m,q5_1,q5_0,q4_k_m,q4_1,q4_0,q3_k_m,q2_k"
PLACES = 1000
SAME_TOP = 0.99
PERPLEXITY = 0.005
TOP = 100


def ours(run: str, *args) -> dict:
    """What tinyllm-run prints as JSON."""
    return json.loads(subprocess.run([run, *map(str, args), "--json"], check=True, capture_output=True, text=True).stdout)


def log_sum(row: list[float]) -> float:
    most = max(row)
    return most + math.log(math.fsum(math.exp(x - most) for x in row))


def excerpt(text: str, llama: libllama.Model, ctx: int) -> str:
    """The beginning of a text, as much as has the windows that are needed: the second half of each is scored."""
    tokens = -(-PLACES // (ctx - ctx // 2 - 1)) * ctx
    cut = tokens
    while cut < len(text) and len(llama.tokenize(text[:cut])) < tokens:
        cut *= 2
    return text[:cut]


def compare(run: str, kind: str, model: pathlib.Path, text: pathlib.Path, llama: libllama.Model) -> str:
    """A line for the table; what is wrong in its last words."""
    told = ours(run, "perplexity", model, text, "--ctx", llama.ctx)
    tokens = llama.tokenize(text.read_text())
    if told["tokens"] != len(tokens):
        return f"{kind:>7}: {told['tokens']} tokens, llama.cpp {len(tokens)}: WRONG"
    places = same = 0
    losses, divergence = [], 0.0
    for window in range(told["windows"]):
        part = tokens[window * llama.ctx : (window + 1) * llama.ctx]
        every = ours(run, "logits", model, "--tokens", ",".join(map(str, part)), "--every", "--top", TOP)["every"]
        for place, (row, mine) in enumerate(zip(llama.logits(part), every)):
            total = log_sum(row)
            same += row.index(max(row)) == mine[0]["id"]
            divergence += sum(math.exp(t["logprob"]) * (t["logprob"] - (row[t["id"]] - total)) for t in mine)
            places += 1
            if llama.ctx // 2 <= place < llama.ctx - 1:
                losses.append(total - row[part[place + 1]])
    theirs = math.exp(math.fsum(losses) / len(losses))
    apart = abs(told["perplexity"] / theirs - 1)
    wrong = [w for w, bad in [("scored places", len(losses) != told["scored"]), ("likeliest token", same < SAME_TOP * places), ("perplexity", apart > PERPLEXITY), ("too few places", places < PLACES)] if bad]
    return (
        f"{kind:>7}: same likeliest token {100 * same / places:6.2f} % of {places}; perplexity {told['perplexity']:.4f}, llama.cpp {theirs:.4f}, "
        f"{100 * apart:.3f} % apart; divergence {divergence / places:.6f}" + "".join(f"; WRONG: {w}" for w in wrong)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="the tinyllm-run program")
    parser.add_argument("--f32", required=True, type=pathlib.Path, help="the model, not quantized")
    parser.add_argument("--text", required=True, type=pathlib.Path, help="a text of its kind, in UTF-8")
    parser.add_argument("--types", default=TYPES)
    parser.add_argument("--imatrix", help="a text to weigh columns by")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    lib = libllama.library()
    info = ours(args.run, "info", args.f32)
    ctx = min(512, info["model"]["n_ctx"])
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        text = None
        for kind in args.types.split(","):
            model = pathlib.Path(folder) / f"{kind}.gguf"
            more = ["--imatrix", args.imatrix] if args.imatrix else []
            more += ["--text", args.text] if kind == "auto" else []
            told = ours(args.run, "quantize", args.f32, model, "--type", kind, *more)
            formats = collections.Counter(t["to"] for t in told["tensors"] if t["error"] is not None)
            try:
                llama = libllama.Model(lib, model, ctx, args.threads)
            except ValueError as error:
                print(f"{kind:>7}: WRONG: {error}")
                wrong += 1
                continue
            if text is None:
                text = pathlib.Path(folder) / "text"
                text.write_text(excerpt(args.text.read_text(), llama, ctx))
            line = compare(args.run, kind, model, text, llama)
            print(f"{line}; formats: {', '.join(f'{n} {f}' for f, n in formats.items())}", flush=True)
            wrong += "WRONG" in line
            llama.close()
            model.unlink()
    sys.exit(wrong > 0)


main()
