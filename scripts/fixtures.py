#!/usr/bin/env python3
"""Writes tests/fixtures/*.safetensors: what a GPT-2 must compute, said by PyTorch in float64.

The model is written out here with torch's functions and shares nothing with ours but the formulas, so a mistake
would have to be made twice. Weights are rounded to bf16, so that every arithmetic starts from the same numbers;
sizes are no multiple of any tile. A file holds, in safetensors:

    weight.NAME    bf16   our (GGUF) names, matrices (out, in)
    batch.*        i32    tokens, positions, starts (B, T); rows, targets (count); weights f32 (count)
    act.PLACE      f32    activations, logits (B T, V) at all positions among them
    grad.NAME      f32    gradients of the loss, before clipping
    loss norm      f64    of the first step; losses: of ten steps of AdamW, before each
    metadata              about, JSON: config and lora as ours; honest: what PyTorch's own f32 misses of each of these

`honest` is the worst over five orders of summation: for tensors |x - ref| / |ref| in the Euclidean norm, for
numbers the absolute difference, for the norm the relative one. Tests take their tolerances from it.

usage: python scripts/fixtures.py [FOLDER]        installs torch where it is missing
"""

import json
import math
import sys
from pathlib import Path

import oracle_env

oracle_env.require("torch", "safetensors", "numpy")

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

STEPS = 10
ADAM = dict(lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
DECAY, CLIP, NORM_EPS = 0.1, 1.0, 1e-5
ORDERS = 5


def weights(cfg, lora, seed):
    """Every parameter, in f64 but exact in bf16; larger than at initialisation, so that every term counts."""
    draw = torch.Generator().manual_seed(seed)
    normal = lambda *shape, scale: torch.randn(*shape, generator=draw, dtype=torch.float64) * scale
    L, C, V, ff = cfg["n_layer"], cfg["n_embd"], cfg["n_vocab"], cfg["n_ff"]
    p = {"token_embd.weight": normal(V, C, scale=0.9 / C**0.5), "position_embd.weight": normal(cfg["n_ctx"], C, scale=0.05)}

    def norm(name):
        p[f"{name}.weight"] = 1 + normal(C, scale=0.1)
        p[f"{name}.bias"] = normal(C, scale=0.1)

    def linear(name, i, o):
        p[f"{name}.weight"] = normal(o, i, scale=1 / i**0.5)
        p[f"{name}.bias"] = normal(o, scale=0.1)
        if lora:
            p[f"{name}.weight.lora_a"] = normal(lora["rank"], i, scale=1 / i**0.5)
            p[f"{name}.weight.lora_b"] = normal(o, lora["rank"], scale=0.3)

    for l in range(L):
        norm(f"blk.{l}.attn_norm")
        linear(f"blk.{l}.attn_qkv", C, 3 * C)
        linear(f"blk.{l}.attn_output", C, C)
        norm(f"blk.{l}.ffn_norm")
        linear(f"blk.{l}.ffn_up", C, ff)
        linear(f"blk.{l}.ffn_down", ff, C)
    norm("output_norm")
    return {name: w.to(torch.bfloat16).to(torch.float64) for name, w in p.items()}


def batch(cfg, b, t, documents, prompt_weight, seed):
    """Tokens with repeats, masked targets; where `documents` says so, rows of several documents.

    `documents` lists for each row where its documents start; a document's first third is its prompt.
    """
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, cfg["n_vocab"], (b, t), generator=draw)
    tokens[0, : t // 8 + 1] = tokens[0, 0]
    nexts = torch.randint(0, cfg["n_vocab"], (b, t), generator=draw)
    starts, weight = torch.zeros(b, t, dtype=torch.long), torch.ones(b, t)
    weight[-1, t // 2 : -2] = 0  # a masked stretch
    for row, begins in enumerate(documents or []):
        for begin, end in zip(begins, [*begins[1:], t]):
            starts[row, begin:end] = begin
            weight[row, begin : begin + (end - begin) // 3] = prompt_weight
            weight[row, end - 1] = 0  # what follows belongs to another document
    positions = torch.arange(t).repeat(b, 1) - starts
    rows = weight.flatten().nonzero().flatten()
    return dict(tokens=tokens, positions=positions, starts=starts, rows=rows, targets=nexts.flatten()[rows], weights=weight.flatten()[rows])


def forward(cfg, lora, p, x, keep, order):
    """The mean loss of a batch, `order` being a seed for the order in which products are summed (None: as it comes)."""
    C, H = cfg["n_embd"], cfg["n_head"]
    B, T = x["tokens"].shape

    def product(a, w):
        if order is None:
            return F.linear(a, w)
        shuffled = torch.randperm(w.shape[1], generator=torch.Generator().manual_seed(order))
        return F.linear(a[..., shuffled], w[:, shuffled])

    def linear(name, a):
        y = product(a, p[f"{name}.weight"]) + p[f"{name}.bias"]
        if lora:
            low = product(a, p[f"{name}.weight.lora_a"])
            y = y + lora["alpha"] / lora["rank"] * product(low, p[f"{name}.weight.lora_b"])
        return y

    def norm(name, a):
        return F.layer_norm(a, (C,), p[f"{name}.weight"], p[f"{name}.bias"], NORM_EPS)

    def kept(place, a):
        keep[place] = a.detach().reshape(B * T, -1)
        return a

    row = torch.arange(T)
    seen = (row[None, None, :] <= row[None, :, None]) & (row[None, None, :] >= x["starts"][:, :, None])  # (B, T, T)
    h = kept("embd", p["token_embd.weight"][x["tokens"]] + p["position_embd.weight"][x["positions"]])
    for l in range(cfg["n_layer"]):
        qkv = kept(f"blk.{l}.attn_qkv", linear(f"blk.{l}.attn_qkv", norm(f"blk.{l}.attn_norm", h)))
        q, k, v = (z.view(B, T, H, C // H).transpose(1, 2) for z in qkv.split(C, dim=2))
        scores = (q @ k.transpose(2, 3) / math.sqrt(C // H)).masked_fill(~seen[:, None], -math.inf)
        y = kept(f"blk.{l}.attn", (scores.softmax(3) @ v).transpose(1, 2).reshape(B, T, C))
        h = kept(f"blk.{l}.mid", h + linear(f"blk.{l}.attn_output", y))
        up = linear(f"blk.{l}.ffn_up", norm(f"blk.{l}.ffn_norm", h))
        h = kept(f"blk.{l}.out", h + linear(f"blk.{l}.ffn_down", F.gelu(up, approximate="tanh")))
    logits = kept("logits", product(kept("output_norm", norm("output_norm", h)), p["token_embd.weight"]))
    counted = F.cross_entropy(logits.reshape(B * T, -1)[x["rows"]], x["targets"], reduction="none")
    w = x["weights"].to(counted.dtype)
    return (w * counted).sum() / w.sum()


def run(cfg, lora, p, x, dtype, order=None):
    """Activations, gradients, loss and norm of the first step, losses of ten."""
    trained = [name for name in p if "lora" in name or not lora]
    p = {name: w.to(dtype).clone().requires_grad_(name in trained) for name, w in p.items()}
    groups = [dict(params=[p[n] for n in trained if (p[n].dim() > 1) == matrix], weight_decay=DECAY * matrix) for matrix in (True, False)]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], foreach=False, **ADAM)
    out, losses = {}, []
    for step in range(STEPS):
        optimizer.zero_grad()
        keep = {}
        loss = forward(cfg, lora, p, x, keep, order)
        loss.backward()
        norm = torch.stack([p[n].grad.norm() for n in trained]).norm()
        losses.append(loss.item())
        if step == 0:
            out = {f"act.{k}": v for k, v in keep.items()} | {f"grad.{n}": p[n].grad.clone() for n in trained}
            out |= dict(loss=loss.detach(), norm=norm)
        scale = min(1.0, CLIP / norm.item())  # clip_grad_norm_ would add 1e-6 to the norm
        for n in trained:
            p[n].grad *= scale
        optimizer.step()
    return out | dict(losses=torch.tensor(losses, dtype=torch.float64))


def missed(ref, other):
    """How far each result lies from the reference, in the measures that the tests use."""
    error = {}
    for name, want in ref.items():
        got = other[name].double()
        if name == "losses":
            error[name] = (got - want).abs().tolist()
        elif name == "loss":
            error[name] = abs(got - want).item()
        else:
            error[name] = ((got - want).norm() / want.norm()).item()
    return error


def case(folder, name, cfg, b, t, seed, lora=None, documents=None, prompt_weight=1.0, places=None):
    p, x = weights(cfg, lora, seed), batch(cfg, b, t, documents, prompt_weight, seed + 1)
    ref = run(cfg, lora, p, x, torch.float64)
    others = [missed(ref, run(cfg, lora, p, x, torch.float32, order)) for order in [None, *range(1, ORDERS)]]
    honest = {k: max(o[k] for o in others) for k in ref if k != "losses"}
    honest["losses"] = [max(at) for at in zip(*(o["losses"] for o in others))]

    tensors = {f"weight.{n}": w.to(torch.bfloat16) for n, w in p.items()}
    tensors |= {f"batch.{k}": v if v.is_floating_point() else v.to(torch.int32) for k, v in x.items()}
    for key, value in ref.items():
        if key.startswith("act.") and places and key[4:] not in places:
            continue
        tensors[key] = value.reshape(-1) if value.dim() == 0 else value if key == "losses" else value.float()
    about = dict(config=cfg, lora=lora, batch=dict(b=b, t=t), honest=honest)
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / f"{name}.safetensors", metadata=dict(about=json.dumps(about)))
    worst = lambda kind: max(v for k, v in honest.items() if k.startswith(kind))
    print(f"{name}: {sum(w.numel() for w in p.values())} parameters, {len(x['rows'])} targets of {b * t}, norm {ref['norm']:.3f}, "
          f"losses {ref['losses'][0]:.4f} .. {ref['losses'][-1]:.4f}\n    honest f32 misses: activations {worst('act'):.1e}, "
          f"gradients {worst('grad'):.1e}, loss {honest['loss']:.1e}, norm {honest['norm']:.1e}, ten losses {max(honest['losses']):.1e}")


def adamw(folder):
    """One step of torch's AdamW from given moments: n numbers whose gradients span nine decades, zeros among them."""
    draw = torch.Generator().manual_seed(5)
    n, tensors, honest = 211, {}, {}
    for name, step, clip, decay in [("first", 1, 1e9, DECAY), ("early", 7, 0.5, 0.0), ("late", 12345, 1.0, DECAY)]:
        exact = lambda z: z.to(torch.float32).double()
        sign = torch.randint(0, 2, (n,), generator=draw) * 2 - 1
        g = exact(10 ** (torch.rand(n, generator=draw, dtype=torch.float64) * 9 - 8) * sign)
        g[:7] = 0
        p, m, v = (exact(torch.randn(n, generator=draw, dtype=torch.float64) * s) for s in (0.1, 0.01, 0.01))
        m, v = (m * (step > 1)), exact((v * (step > 1)).square())
        lr = 6e-4
        clipped = g * min(1.0, clip / g.norm().item())

        def step_in(dtype):
            q = p.to(dtype).clone().requires_grad_()
            q.grad = clipped.to(dtype)
            optimizer = torch.optim.AdamW([q], foreach=False, weight_decay=decay, **(ADAM | dict(lr=lr)))
            optimizer.state[q] = dict(step=torch.tensor(float(step - 1)), exp_avg=m.to(dtype).clone(), exp_avg_sq=v.to(dtype).clone())
            optimizer.step()
            return dict(p=q.detach(), m=optimizer.state[q]["exp_avg"], v=optimizer.state[q]["exp_avg_sq"])

        want = step_in(torch.float64)
        for key, value in dict(p=p, m=m, v=v, g=g).items():
            tensors[f"{name}.in.{key}"] = value.float()
        for key, value in want.items():
            tensors[f"{name}.out.{key}"] = value
        honest[name] = missed(want, step_in(torch.float32))
        tensors[f"{name}.control"] = torch.tensor([lr, *ADAM["betas"], ADAM["eps"], decay, clip, step], dtype=torch.float64)
    about = dict(control="lr beta1 beta2 eps decay clip step", honest=honest)
    save_file(tensors, folder / "adamw.safetensors", metadata=dict(about=json.dumps(about)))
    print(f"adamw: honest f32 misses {honest}")


def main():
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent / "tests" / "fixtures")
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    size = lambda L, H, C, V, ctx, ff=None: dict(n_embd=C, n_head=H, n_layer=L, n_ff=ff or 4 * C, n_ctx=ctx, n_vocab=V)
    case(folder, "gpt2", size(2, 2, 128, 263, 80), 2, 72, seed=1234,
         places=["embd", "blk.0.attn_qkv", "blk.0.attn", "blk.1.attn", "blk.0.out", "blk.1.mid", "blk.1.out", "output_norm", "logits"])
    case(folder, "packed", size(2, 3, 36, 97, 43), 3, 43, seed=99, documents=[[0, 13, 14, 30], [0, 25], [0]], prompt_weight=0.1)
    case(folder, "odd", size(3, 3, 24, 61, 7, ff=50), 2, 5, seed=7)
    case(folder, "single", size(1, 1, 17, 19, 1), 3, 1, seed=11)
    case(folder, "lora", size(2, 2, 40, 83, 21, ff=100), 2, 19, seed=31, lora=dict(rank=5, alpha=7.0))
    adamw(folder)
    print(f"{sum(f.stat().st_size for f in folder.glob('*.safetensors')) / 1e6:.2f} MB in {folder}")


if __name__ == "__main__":
    main()
