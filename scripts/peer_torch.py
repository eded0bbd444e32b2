#!/usr/bin/env python3
"""Training step against PyTorch: GPT-2 124M, f32, the same batch and threads, in one run.

PyTorch is taken as it ships: eager mode, scaled_dot_product_attention, fused AdamW, gradient clipping, tied head.
Rounds alternate, one timed step of PyTorch and one run of `tinyllm-train bench`, so that a busy machine slows both;
medians and their ratio are printed.

usage: python scripts/peer_torch.py [--rounds 3] [--micro-batch 8] [--ctx 256] [--threads 2] [--at-least RATIO] [--json]
"""

import argparse
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
    def __init__(self, layers, c, heads):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCAB, c), nn.Embedding(CONTEXT, c)
        self.blocks = nn.ModuleList(Block(c, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(c)
        nn.init.normal_(self.wte.weight, std=0.02)
        nn.init.normal_(self.wpe.weight, std=0.01)

    def forward(self, tokens, targets):
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(F.linear(self.norm(x), self.wte.weight).view(-1, VOCAB), targets.view(-1))


class Theirs:
    def __init__(self, args):
        torch.set_num_threads(args.threads)
        torch.manual_seed(1)
        self.model = Gpt2(*SIZES[args.model])
        matrices = [p for p in self.model.parameters() if p.dim() > 1]
        vectors = [p for p in self.model.parameters() if p.dim() == 1]
        groups = [dict(params=matrices, weight_decay=0.1), dict(params=vectors, weight_decay=0.0)]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), eps=1e-8, fused=True)
        self.tokens, self.targets = torch.randint(0, VOCAB, (2, args.micro_batch, args.ctx))

    def seconds(self):
        start = time.perf_counter()
        loss = self.model(self.tokens, self.targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        loss.item()
        return time.perf_counter() - start


def ours(program, args):
    command = [program, "--threads", str(args.threads), "bench", "--model", args.model, "--device", "cpu", "--json", "--steps", str(args.steps)]
    command += ["--micro-batch", str(args.micro_batch), "--ctx", str(args.ctx), "--no-kernels"]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(out.splitlines()[-1])["tokens_per_s"]


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", choices=SIZES, default="124m")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--steps", type=int, default=2, help="timed steps of ours in a round; one more is not counted")
    p.add_argument("--micro-batch", type=int, default=8)
    p.add_argument("--ctx", type=int, default=256)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--at-least", type=float, default=0.0, help="exit with 1 where ours is less than this many times theirs")
    p.add_argument("--json", action="store_true")
    args = p.parse_args()

    program = oracle_env.program("tinyllm-train")
    theirs, tokens = Theirs(args), args.micro_batch * args.ctx
    print(f"GPT-2 {args.model}, {args.micro_batch} x {args.ctx} tokens, f32, {args.threads} threads, torch {torch.__version__}", file=sys.stderr)
    theirs.seconds()  # warm: allocator, kernels chosen
    rounds = []
    for i in range(args.rounds):
        torch_rate = tokens / theirs.seconds()
        time.sleep(1)  # its threads spin for a while after the last region
        pair = torch_rate, ours(program, args)
        rounds.append(pair)
        print(f"round {i + 1}: torch {pair[0]:.0f} tokens/s, ours {pair[1]:.0f}, ratio {pair[1] / pair[0]:.2f}", file=sys.stderr)
    torch_median, our_median = (statistics.median(side) for side in zip(*rounds))
    ratio = statistics.median(ours / theirs for theirs, ours in rounds)
    if args.json:
        print(json.dumps(dict(torch=torch.__version__, torch_tokens_per_s=torch_median, tokens_per_s=our_median, ratio=ratio, rounds=rounds)))
    else:
        print(f"median of {args.rounds}: torch {torch_median:.0f} tokens/s, ours {our_median:.0f}; median ratio {ratio:.2f}")
    sys.exit(ratio < args.at_least)


if __name__ == "__main__":
    main()
