#!/usr/bin/env python3
"""Training step against PyTorch: GPT-2, the same batch, in one run.

On a CPU: f32, the same threads, eager mode. On a GPU: bf16 autocast over f32 weights, torch.compile, the vocabulary padded to
50,304. On both: scaled_dot_product_attention (flash, in bf16 on a GPU), fused AdamW, gradient clipping, tied head.
On a CPU rounds alternate, one timed step of PyTorch and one run of `tinyllm-train bench`, so that a busy machine slows both; medians
and their ratio are printed. On a GPU PyTorch's steps come first, its memory is given back, and then ours are timed.

usage: python scripts/peer_torch.py [--device cpu|cuda] [--rounds N] [--micro-batch B] [--ctx T] [--threads 2] [--at-least RATIO] [--json]
"""

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time

import oracle_env

oracle_env.require("torch", "numpy")

import torch
import torch.nn as nn
import torch.nn.functional as F

SIZES = {"30m": (6, 384, 6), "51m": (8, 512, 8), "82m": (10, 640, 10), "102m": (11, 704, 11), "124m": (12, 768, 12)}
VOCAB, CONTEXT = 50257, 1024
PADDED_VOCAB = 50304  # a multiple of 128, which PyTorch's products on a GPU prefer


class Block(nn.Module):
    def __init__(self, c, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(c), nn.LayerNorm(c)
        self.qkv, self.out = nn.Linear(c, 3 * c), nn.Linear(c, c)
        self.up, self.down = nn.Linear(c, 4 * c), nn.Linear(4 * c, c)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = (z.view(b, t, self.heads, c // self.heads).transpose(1, 2) for z in self.qkv(self.norm1(x)).split(c, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, c)
        x = x + self.out(y)
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Gpt2(nn.Module):
    """Gives the mean loss, or with reduction="sum" its sum."""

    def __init__(self, layers, c, heads, vocab=VOCAB, context=CONTEXT):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab, c), nn.Embedding(context, c)
        self.blocks = nn.ModuleList(Block(c, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(c)
        nn.init.normal_(self.wte.weight, std=0.02)
        nn.init.normal_(self.wpe.weight, std=0.01)

    def forward(self, tokens, targets, reduction="mean"):
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.wte.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1), reduction=reduction)


def adamw(model, lr):
    """Matrices decay, vectors do not, as ours."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [dict(params=matrices, weight_decay=0.1), dict(params=vectors, weight_decay=0.0)]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), eps=1e-8, fused=True)


class Theirs:
    def __init__(self, args):
        torch.manual_seed(1)
        self.cuda = args.device == "cuda"
        if not self.cuda:
            torch.set_num_threads(args.threads)
        self.model = Gpt2(*SIZES[args.model], PADDED_VOCAB if self.cuda else VOCAB).to(args.device)
        self.optimizer = adamw(self.model, 1e-4)
        self.tokens, self.targets = torch.randint(0, VOCAB, (2, args.micro_batch, args.ctx)).to(args.device)
        self.loss = torch.compile(self.model) if self.cuda else self.model

    def seconds(self):
        start = time.perf_counter()
        with torch.autocast(self.tokens.device.type, torch.bfloat16, enabled=self.cuda):
            loss = self.loss(self.tokens, self.targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        loss.item()
        return time.perf_counter() - start


def ours(program, args):
    command = [program, "--threads", str(args.threads), "bench", "--model", args.model, "--device", args.device, "--json", "--steps", str(args.steps)]
    command += ["--micro-batch", str(args.micro_batch), "--ctx", str(args.ctx), "--no-kernels"]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(out.splitlines()[-1])["tokens_per_s"]


def on_cpu(program, args):
    theirs, tokens = Theirs(args), args.micro_batch * args.ctx
    theirs.seconds()  # warm: allocator, kernels chosen
    rounds = []
    for i in range(args.rounds):
        torch_rate = tokens / theirs.seconds()
        time.sleep(1)  # its threads spin for a while after the last region
        pair = torch_rate, ours(program, args)
        rounds.append(pair)
        print(f"round {i + 1}: torch {pair[0]:.0f} tokens/s, ours {pair[1]:.0f}, ratio {pair[1] / pair[0]:.2f}", file=sys.stderr)
    return rounds


def on_gpu(program, args):
    torch.set_float32_matmul_precision("high")
    theirs = Theirs(args)
    for _ in range(3):  # compiled, kernels chosen, allocator warm
        theirs.seconds()
    seconds = statistics.median(theirs.seconds() for _ in range(args.rounds))
    print(f"torch: {seconds * 1e3:.1f} ms a step, {torch.cuda.max_memory_allocated() / 1e9:.1f} GB", file=sys.stderr)
    del theirs
    gc.collect()
    torch.cuda.empty_cache()
    args.steps = args.rounds
    pair = args.micro_batch * args.ctx / seconds, ours(program, args)
    print(f"torch {pair[0]:.0f} tokens/s, ours {pair[1]:.0f}, ratio {pair[1] / pair[0]:.2f}", file=sys.stderr)
    return [pair]


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", choices=SIZES, default="124m")
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    p.add_argument("--rounds", type=int, help="3 on a CPU; on a GPU 20 steps of each")
    p.add_argument("--steps", type=int, default=2, help="timed steps of ours in a round on a CPU; one more is not counted")
    p.add_argument("--micro-batch", type=int, help="8 on a CPU, 64 on a GPU")
    p.add_argument("--ctx", type=int, help="256 on a CPU, 1,024 on a GPU")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--at-least", type=float, default=0.0, help="exit with 1 where ours is less than this many times theirs")
    p.add_argument("--json", action="store_true")
    args = p.parse_args()
    usual = dict(rounds=20, micro_batch=64, ctx=1024) if args.device == "cuda" else dict(rounds=3, micro_batch=8, ctx=256)
    for name, value in usual.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.device == "cuda" and not torch.cuda.is_available():
        oracle_env.skip("PyTorch finds no GPU")

    program = oracle_env.program("tinyllm-train")
    where = torch.cuda.get_device_name() + ", bf16" if args.device == "cuda" else f"f32, {args.threads} threads"
    print(f"GPT-2 {args.model}, {args.micro_batch} x {args.ctx} tokens, {where}, torch {torch.__version__}", file=sys.stderr)
    rounds = on_gpu(program, args) if args.device == "cuda" else on_cpu(program, args)
    torch_median, our_median = (statistics.median(side) for side in zip(*rounds))
    ratio = statistics.median(ours / theirs for theirs, ours in rounds)
    if args.json:
        print(json.dumps(dict(torch=torch.__version__, model=args.model, torch_tokens_per_s=torch_median, tokens_per_s=our_median, ratio=ratio, rounds=rounds)))
    else:
        print(f"median of {args.rounds}: torch {torch_median:.0f} tokens/s, ours {our_median:.0f}; median ratio {ratio:.2f}")
    sys.exit(ratio < args.at_least)


if __name__ == "__main__":
    main()
