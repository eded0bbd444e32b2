#!/usr/bin/env python3
"""A run's losses against PyTorch's: the same model from the same weights, the same batches, schedule and optimizer.

Runs `tinyllm-train pretrain`, then trains again in PyTorch and compares the loss of every tenth step. Nothing is handed over but the
prepared data: initial weights and the order of the windows are made here once more, as ARCHITECTURE.md says (Philox 4x32-10 under keys
made of a seed and names), so that those are compared too. On a CPU both are f32; on a GPU both are bf16 over f32 weights.

Without --data the quickstart's recipe is prepared, with GPT-2's whole vocabulary unless the model is nano.

usage: python scripts/loss_curve.py [--data DATA] [--model nano] [--device cpu|cuda] [--steps 30] [--micro-batch B] [--ctx T] [--json]
"""

import argparse
import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import oracle_env

oracle_env.require("torch", "numpy")

import numpy as np
import torch
from peer_torch import SIZES, Gpt2, adamw

SIZES = {"nano": (4, 128, 2), **SIZES}
SEED, END_FRACTION = 1, 0.1
MASK = (1 << 64) - 1
# Of the loss of any step compared; f32 against f32 stays under 1e-3, bf16 rounds in ways of its own.
BAR = 0.02


# ---- random numbers, as src/rng.rs


def mix(z):
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return z ^ z >> 31


def key(seed, *parts):
    k = mix(seed + 0x9E3779B97F4A7C15 & MASK)
    for part in parts:
        k = mix((k + 0x9E3779B97F4A7C15 & MASK) ^ mix(part))
    return k


def key_of(seed, name):
    fnv = 0xCBF29CE484222325
    for byte in name.encode():
        fnv = (fnv ^ byte) * 0x100000001B3 & MASK
    return key(seed, fnv)


def doubles(k, blocks):
    """The first 64-bit draws of the stream under a key, two a block."""
    low = np.uint64(0xFFFFFFFF)
    c0, c1 = np.arange(blocks, dtype=np.uint64), np.zeros(blocks, np.uint64)
    c2, c3 = np.zeros(blocks, np.uint64), np.zeros(blocks, np.uint64)
    k0, k1 = k & 0xFFFFFFFF, k >> 32
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = p1 >> np.uint64(32) ^ c1 ^ np.uint64(k0), p1 & low, p0 >> np.uint64(32) ^ c3 ^ np.uint64(k1), p0 & low
        k0, k1 = k0 + 0x9E3779B9 & 0xFFFFFFFF, k1 + 0xBB67AE85 & 0xFFFFFFFF
    return np.stack([c0 | c1 << np.uint64(32), c2 | c3 << np.uint64(32)], 1).ravel()


def normals(k, n):
    chunk, out = 1 << 14, np.empty(n)
    for i in range(0, n, chunk):
        m = min(chunk, n - i)
        fractions = (doubles(key(k, i // chunk), m) >> np.uint64(11)) * 2.0**-53
        out[i : i + m] = np.sqrt(-2 * np.log(1 - fractions[0::2])) * np.cos(2 * np.pi * fractions[1::2])
    return out


class Below:
    """Draws below a bound, one after another."""

    def __init__(self, k, about):
        self.draws = iter(doubles(k, about + 64).tolist())

    def __call__(self, n):
        while True:
            wide = next(self.draws) * n
            if wide & MASK >= (1 << 64) % n:
                return wide >> 64


# ---- batches, as src/data/loader.rs


class Loader:
    def __init__(self, data, t):
        manifest = json.loads((data / "manifest.json").read_text())
        self.vocab, self.t = manifest["n_vocab"], t
        self.shards = [np.fromfile(data / path, "<u2", offset=1024) for path in manifest["pretrain"]["train_shards"]]
        self.epoch, self.order = -1, []

    def windows(self):
        shift = Below(key_of(SEED, f"shift {self.epoch}"), 1)(self.t) if self.epoch else 0
        for shard in self.shards:
            begin = shift if len(shard) > self.t + shift else 0
            for i in range(max(len(shard) - begin - 1, 0) // self.t):
                yield shard[begin + i * self.t :][: self.t + 1]

    def rows(self, n):
        rows = []
        while len(rows) < n:
            if not self.order:
                self.epoch += 1
                self.order = list(self.windows())
                below = Below(key_of(SEED, f"loader {self.epoch}"), len(self.order))
                for i in range(len(self.order) - 1, 0, -1):
                    j = below(i + 1)
                    self.order[i], self.order[j] = self.order[j], self.order[i]
                self.order.reverse()
            rows.append(self.order.pop())
        return torch.from_numpy(np.stack(rows).astype(np.int64))


# ---- the model's first weights, as src/model/decoder.rs


def ours_by_theirs(layers):
    """PyTorch's names of matrices and ours, with their deviations."""
    into_stream = 0.02 / math.sqrt(2 * layers)
    yield "wte.weight", "token_embd.weight", 0.02
    yield "wpe.weight", "position_embd.weight", 0.01
    for i in range(layers):
        for theirs, ours, std in [("qkv", "attn_qkv", 0.02), ("out", "attn_output", into_stream), ("up", "ffn_up", 0.02), ("down", "ffn_down", into_stream)]:
            yield f"blocks.{i}.{theirs}.weight", f"blk.{i}.{ours}.weight", std


def initial(model, layers):
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, p in parameters.items():
            p.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        for theirs, ours, std in ours_by_theirs(layers):
            p = parameters[theirs]
            p.copy_(torch.from_numpy((normals(key_of(SEED, ours), p.numel()) * std).astype(np.float32)).view(p.shape))


def rate(step, args):
    """As src/train/schedule.rs."""
    if step <= args.warmup:
        return args.lr * step / args.warmup
    progress = min((step - args.warmup) / max(args.steps - args.warmup, 1), 1.0)
    return args.lr * (END_FRACTION + (1 - END_FRACTION) * 0.5 * (1 + math.cos(math.pi * progress)))


def theirs(data, context, args):
    torch.set_num_threads(args.threads)
    loader, layers = Loader(data, args.ctx), SIZES[args.model][0]
    model = Gpt2(*SIZES[args.model], loader.vocab, context)
    initial(model, layers)
    model.to(args.device)
    optimizer, losses = adamw(model, args.lr), []
    for step in range(1, args.steps + 1):
        total = 0.0
        for _ in range(args.accumulate):
            rows = loader.rows(args.micro_batch).to(args.device)
            with torch.autocast(args.device, torch.bfloat16, enabled=args.device == "cuda"):
                loss = model(rows[:, :-1], rows[:, 1:].contiguous(), reduction="sum") / (args.accumulate * rows[:, 1:].numel())
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, args)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(total)
    return losses


def ours(program, data, run, args):
    command = [program, "--threads", str(args.threads), "pretrain", "--data", data, "--model", args.model, "--device", args.device, "--out", run]
    numbers = {"--steps": args.steps, "--micro-batch": args.micro_batch, "--ctx": args.ctx, "--lr": args.lr, "--warmup": args.warmup, "--seed": SEED}
    numbers |= {"--batch-tokens": args.micro_batch * args.accumulate * args.ctx, "--end-fraction": END_FRACTION, "--eval-every": args.steps}
    subprocess.run([*map(str, command), *(str(word) for pair in numbers.items() for word in pair)], check=True, stdout=sys.stderr)
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def prepare(program, folder, args):
    """The quickstart's data; a larger model gets them with GPT-2's whole vocabulary and its own context."""
    recipe = folder / "recipe"
    shutil.copytree(Path(__file__).resolve().parent / "quickstart", recipe)
    if args.model != "nano":
        path = recipe / "recipe.toml"
        text = re.sub(r"(?m)^vocabulary.*\n", "", path.read_text())
        path.write_text(re.sub(r"(?m)^context = \d+", "context = 1024", re.sub(r"(?m)^tokens = [\d_]+", "tokens = 4_000_000", text)))
    subprocess.run([program, "prepare", recipe / "recipe.toml", "--out", folder / "data"], check=True, stdout=sys.stderr)
    return folder / "data"


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--data", type=Path, help="a folder that `tinyllm-train prepare` made")
    p.add_argument("--model", choices=SIZES, default="nano")
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    p.add_argument("--steps", type=int, default=30)
    p.add_argument("--micro-batch", type=int, default=4)
    p.add_argument("--accumulate", type=int, default=2)
    p.add_argument("--ctx", type=int, help="256 for nano, else 1,024")
    p.add_argument("--lr", type=float, default=6e-4)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--json", action="store_true")
    args = p.parse_args()
    args.ctx = args.ctx or (256 if args.model == "nano" else 1024)
    args.warmup = args.steps // 10
    if args.device == "cuda" and not torch.cuda.is_available():
        oracle_env.skip("PyTorch finds no GPU")

    program = oracle_env.program("tinyllm-train")
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        data = args.data or prepare(program, scratch, args)
        mine = ours(program, data, scratch / "run", args)
        peer = theirs(data, 512 if args.model == "nano" else 1024, args)
    told = [step for step in range(1, args.steps + 1) if step == 1 or step % 10 == 0]
    worst = max(abs(mine[step - 1] - peer[step - 1]) for step in told)
    out = sys.stderr if args.json else sys.stdout
    print(f"{'step':>5} {'ours':>9} {'torch':>9} {'apart':>9}", file=out)
    for step in told:
        a, b = mine[step - 1], peer[step - 1]
        print(f"{step:>5} {a:>9.5f} {b:>9.5f} {a - b:>9.1e}", file=out)
    held = len(mine) == args.steps and worst <= BAR  # false for NaN too
    where = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    print(f"{args.model} on {where}, {args.steps} steps of {args.accumulate} x {args.micro_batch} x {args.ctx} tokens: ", file=out, end="")
    print(f"{worst:.1e} apart at most, {'within' if held else 'MORE THAN'} {BAR}", file=out)
    if args.json:
        print(json.dumps(dict(model=args.model, device=where, steps=args.steps, worst=worst, bar=BAR, held=held, ours=mine, torch=peer)))
    sys.exit(not held)


if __name__ == "__main__":
    main()
