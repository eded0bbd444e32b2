#!/usr/bin/env python3
"""Holds exported GGUF files to llama.cpp, prebuilt in the PyPI package xllamacpp.

    check_llama_cpp.py --run target/release/tinyllm-run --f32 m-f32.gguf --f16 m-f16.gguf --q8_0 m-q8_0.gguf

All files are of the same model. For each it is checked that llama.cpp loads it, tokenizes ten prompts as we do, and
gives the same log-probabilities of the next token: within 0.005 (F32), 0.02 (F16) and 0.1 (Q8_0; llama.cpp rounds
activations, too). Along its own greedy continuation of 32 tokens, over some 1,500 values, its roundings may add up to
twice that. For F32 the greedy continuation must be ours; a first difference is allowed
where our two best logits lie within 0.01, because llama.cpp's GELU table and cache are of 16 bits.

Exit status: 0 agreed, or skipped because the package cannot be installed (said in a line that begins with "skipped");
1 disagreed.
"""

import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import urllib.request
import venv

PACKAGE = "xllamacpp==2026.10.11549"
TOLERANCE = {"f32": 0.005, "f16": 0.02, "q8_0": 0.1}
TOKENS = 32
TOP = 5
CLOSE = 0.01
PROMPTS = [
    "The sensor",
    "Ax: 47 52 49 50 51",
    "### Instruction:\nWhich activity?\n\n### Input:\nAx: 1 2 3\n\n### Response:\n",
    "In the beginning",
    "12:30 temperature 21.5 \u00b0C, humidity 40 %",
    "fn main() {",
    "Fellow citizens of the Senate and of the House of Representatives",
    " 0 1 2 3 4 5 6 7 8 9 10",
    "a",
    "Na\u00efve caf\u00e9 \U0001f600 end",
]


def with_package() -> None:
    """Goes on in a Python that has xllamacpp: this one, or one in a new virtual environment."""
    try:
        import xllamacpp  # noqa: F401

        return
    except ImportError:
        pass
    if os.environ.get("TINYLLM_LLAMA_VENV"):
        print(f"skipped: {PACKAGE} was installed, but does not import here")
        sys.exit(0)
    folder = pathlib.Path(tempfile.gettempdir()) / f"tinyllm-llama-cpp-{os.getuid()}"
    python = folder / "bin" / "python"
    try:
        if not python.exists():
            venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", PACKAGE], check=True, timeout=600)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"skipped: cannot install {PACKAGE}: {error}")
        sys.exit(0)
    os.environ["TINYLLM_LLAMA_VENV"] = str(folder)
    os.execv(python, [str(python), *sys.argv])


class LlamaCpp:
    """llama.cpp with a model."""

    def __init__(self, path: pathlib.Path, context: int) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx = context
        params.n_parallel = 1
        params.n_gpu_layers = 0
        params.warmup = False
        params.verbosity = 0
        params.cpuparams.n_threads = 2
        self.server = xllamacpp.Server(params)

    def tokenize(self, text: str) -> list[int]:
        """Token ids."""
        body = json.dumps({"content": text, "add_special": False, "parse_special": False}).encode()
        request = urllib.request.Request(self.server.listening_address + "/tokenize", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["tokens"]

    def next(self, tokens: list[int]) -> list[dict] | None:
        """The likeliest next tokens with their log-probabilities; none where the likeliest is no whole character,
        because the server holds such a token back, and its probabilities with it."""
        answer = self.server.handle_completions(
            {
                "prompt": tokens,
                "n_predict": 1,
                "n_probs": TOP,
                "temperature": 0.0,
                "top_k": 1,
                "repeat_penalty": 1.0,
                "cache_prompt": True,
            }
        )
        try:
            logprobs = answer["choices"][0]["logprobs"]
            return logprobs["content"][0]["top_logprobs"] if logprobs and logprobs["content"] else None
        except (KeyError, IndexError, TypeError):
            sys.exit(f"llama.cpp gave no answer: {str(answer)[:400]}")


def ours(run: str, model: pathlib.Path, *args: str) -> str:
    """What tinyllm-run prints."""
    return subprocess.run([run, *args[:1], str(model), *args[1:]], check=True, capture_output=True, text=True).stdout


def compare(run: str, kind: str, model: pathlib.Path) -> list[str]:
    """What is wrong with a file."""
    wrong, worst, first, close, held_back = [], 0.0, 0.0, 0, 0
    info = json.loads(ours(run, model, "info", "--json"))
    context, end = info["model"]["n_ctx"], info["tokenizer"]["end_token"]
    llama = LlamaCpp(model, context)
    for prompt in PROMPTS:
        tokens = json.loads(ours(run, model, "logits", "-p", prompt, "--top", "1", "--json"))["tokens"]
        if (theirs := llama.tokenize(prompt)) != tokens:
            wrong.append(f"{prompt!r}: our tokens {tokens}, llama.cpp's {theirs}")
            continue
        path, steps = list(tokens), []
        while len(steps) < min(TOKENS, context - len(tokens)) and path[-1] != end:
            best = llama.next(path)
            steps.append(best)
            if best is None:
                mine = json.loads(ours(run, model, "logits", "--tokens", ",".join(map(str, path)), "--top", "1", "--json"))["top"][0]
                if "\ufffd" not in mine["text"]:
                    wrong.append(f"{prompt!r}, place {len(steps)}: llama.cpp holds back what is no whole character, we say {mine['text']!r}")
                    break
                held_back += 1
            path.append(best[0]["id"] if best else mine["id"])
        # Our list after the prompt and after each of the chosen tokens but the last.
        # With the exact cache: what is compared is llama.cpp's own rounding, and not ours upon it.
        every = json.loads(ours(run, model, "logits", "--cache", "f32", "--tokens", ",".join(map(str, path)), "--every", "--top", "100", "--json"))["every"]
        for place, (step, mine) in enumerate(zip(steps, every[len(tokens) - 1 :])):
            if step is None:
                continue
            known = {t["id"]: t["logprob"] for t in mine}
            for theirs in step:
                far = abs(known.get(theirs["id"], -math.inf) - theirs["logprob"])
                worst = max(worst, far)
                if place == 0:
                    first = max(first, far)
                if not far <= TOLERANCE[kind] * (1 if place == 0 else 2):
                    wrong.append(f"{prompt!r}, place {place}, token {theirs['id']}: {far:.4f} apart")
            if mine[0]["id"] != step[0]["id"]:
                close += 1
                if kind == "f32" and not mine[0]["logprob"] - known.get(step[0]["id"], -math.inf) <= CLOSE:
                    wrong.append(f"{prompt!r}, place {place}: we say {mine[0]['id']}, llama.cpp {step[0]['id']}, and it is not close")
    print(f"{kind:>5}: next token after a prompt within {first:.5f} (bar {TOLERANCE[kind]}), along 32 tokens {worst:.5f} (bar {2 * TOLERANCE[kind]}); close calls that went the other way: {close}; held back: {held_back}", flush=True)
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="the tinyllm-run program")
    for kind in TOLERANCE:
        parser.add_argument(f"--{kind}", type=pathlib.Path, help=f"the model as {kind.upper()}")
    args = parser.parse_args()
    files = {kind: getattr(args, kind) for kind in TOLERANCE if getattr(args, kind)}
    if not files:
        parser.error("give at least one of --f32, --f16, --q8_0")
    with_package()
    wrong = [f"{kind}: {what}" for kind, model in files.items() for what in compare(args.run, kind, model)]
    for what in wrong[:20]:
        print("WRONG", what)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
