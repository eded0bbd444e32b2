#!/usr/bin/env python3
"""Whether Hugging Face's libraries read our files as we do.

- A checkpoint folder loads with `GPT2LMHeadModel.from_pretrained`, its tokenizer gives our tokens, and its
  next-token log-probabilities are those of `tinyllm-run logits` on the same checkpoint exported as F32.
- Where it holds an adapter/, `peft` puts that on to its base and gives the logits of our merged model.

usage: python scripts/check_transformers.py CHECKPOINT [--base BASE] [--prompts FILE]
       CHECKPOINT, BASE: folders with model.safetensors; BASE where the adapter's own idea of it does not hold
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import oracle_env

oracle_env.require("torch", "transformers", "peft", "safetensors", "numpy")

import torch
from peft import PeftModel
from transformers import GPT2LMHeadModel, GPT2Tokenizer

PROMPTS = [
    "The", "Ax: 47 52 49 50", "Below is an instruction that describes a task.", "What is this?\n\nWalking.", " a  b\tc",
    "in 1862 the Congress", "Ay: 0 1 2 3 4 5 6 7 8 9 10 99 100", "3.14159", "naïve café — ünïcödé", "It is, therefore, my duty",
]
# f32 against f32 in another order of summation: 1e-6 a logit per unit of its size; logits are of the order of 10.
# The bar for an exported F32 is 1e-3, which leaves room for a half-precision exponential, but not for a wrong one.
CLOSE = 1e-3
# peft adds the pair's product beside the matrix, we into it: one more rounding.
MERGED = 1e-4

failures = []


def check(what, error, bar):
    print(f"{'ok  ' if error <= bar else 'FAIL'} {what}: {error:.2e} (at most {bar:.0e})")
    if not error <= bar:
        failures.append(what)


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].double()


def load(folder):
    model, info = GPT2LMHeadModel.from_pretrained(folder, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = [k for k in info[kind] if k != "lm_head.weight"]  # tied to wte
        if keys:
            failures.append(f"{folder}: {kind} {keys}")
            print(f"FAIL {folder}: {kind} {keys[:5]}")
    return model.float().eval()


def engine(model_gguf, prompt):
    """Our tokens and the log-probabilities of the ten likeliest next ones."""
    run = oracle_env.program("tinyllm-run")
    out = subprocess.run([run, "logits", model_gguf, "-p", prompt, "--top", "10", "--json"], check=True, capture_output=True, text=True)
    return json.loads(out.stdout)


def check_checkpoint(folder, prompts):
    model, tokenizer = load(folder), GPT2Tokenizer.from_pretrained(folder)
    prompts = [p for p in prompts if 0 < len(tokenizer.encode(p)) <= model.config.n_positions]
    if not prompts:
        sys.exit(f"every prompt is longer than the model's {model.config.n_positions} positions: give shorter ones with --prompts")
    with tempfile.TemporaryDirectory() as scratch:
        gguf = Path(scratch) / "model.gguf"
        subprocess.run([oracle_env.program("tinyllm-train"), "export", folder, "--type", "f32", "--out", gguf], check=True, stdout=sys.stderr)
        worst, unlike = 0.0, []
        for prompt in prompts:
            said = engine(gguf, prompt)
            if tokenizer.encode(prompt) != said["tokens"]:
                unlike.append(prompt)
            theirs = logits(model, said["tokens"])[-1].log_softmax(-1)
            worst = max(worst, *(abs(theirs[top["id"]].item() - top["logprob"]) for top in said["top"]))
            if theirs.argmax().item() != said["top"][0]["id"] and theirs.max() - theirs[said["top"][0]["id"]] > CLOSE:
                failures.append(f"another next token after {prompt!r}")
    check(f"log-probabilities of {len(prompts)} prompts, transformers against tinyllm-run", worst, CLOSE)
    check(f"prompts tokenized in another way {unlike}", len(unlike), 0)
    return model, [tokenizer.encode(p) for p in prompts]


def check_adapter(merged, base, adapter, prompts):
    model = PeftModel.from_pretrained(load(base), adapter).eval()
    plain, worst, moved = load(base), 0.0, 0.0
    for ids in prompts:
        want, got = logits(merged, ids), logits(model, ids)
        worst = max(worst, (got - want).abs().max().item())
        moved = max(moved, (got - logits(plain, ids)).abs().max().item())
    check("logits, peft's adapter against our merged model", worst, MERGED)
    if moved <= 10 * MERGED:  # an adapter that does nothing would agree with anything
        failures.append(f"the adapter moves no logit by more than {moved:.1e}")
        print("FAIL", failures[-1])


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("checkpoint", type=Path)
    p.add_argument("--base", type=Path)
    p.add_argument("--prompts", type=Path, help="one a line")
    args = p.parse_args()
    prompts = args.prompts.read_text().splitlines() if args.prompts else PROMPTS
    model, tokens = check_checkpoint(args.checkpoint, prompts)
    adapter = args.checkpoint / "adapter"
    if adapter.is_dir():
        base = args.base or json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
        check_adapter(model, base, adapter, tokens)
    for failure in failures:
        print("FAIL", failure, file=sys.stderr)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
