#!/usr/bin/env python3
"""Times tinyllm-run beside llama.cpp, prebuilt in the PyPI package xllamacpp, on the same files in the same minutes.

    bench_llama_cpp.py --run target/release/tinyllm-run [--threads 2] [--rounds 5] [--pp 512] [--tg 128] [--json] [MODEL.gguf ...]

Without files it makes the ones that the comparison is about, of random weights: 124m in q4_k_m, q8_0 and q2_k, 30m in q4_k_m and q8_0,
102m in q4_k_m. Each round times llama.cpp and then us (or us and then llama.cpp, in turn); a figure is the median of the rounds, and the
ratio is the median of the rounds' ratios, so that a machine that grows slower meanwhile does not count. llama.cpp's figures are its own
server's timings (prompt and generation, sampling included, which takes the likeliest token), ours are `tinyllm-run bench`'s, which takes
the likeliest token, too. "whole" is milliseconds of a whole job, load, a prompt of 601 tokens and 8 more: of ours a process from its start
to its end, of llama.cpp from the call that loads the model (without warm-up) to the answer, the start of its process not counted.

Exit status: 0 measured, or skipped because the package cannot be installed (said in a line that begins with "skipped").
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import oracle_env

JOB = ("Ax:" + " 47" * 599, 8)
MODELS = [("124m", "q4_k_m"), ("124m", "q8_0"), ("124m", "q2_k"), ("30m", "q4_k_m"), ("30m", "q8_0"), ("102m", "q4_k_m")]


def server(model, threads):
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_ctx = 1024
    params.n_batch = 512
    params.n_parallel = 1
    params.n_gpu_layers = 0
    params.warmup = False
    params.fit_params = False
    params.verbosity = 0
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    return xllamacpp.Server(params)


def theirs(model, threads, prompt, generate):
    """Tokens a second of a prompt and of generation, by llama.cpp's own clock, and milliseconds of a whole job; in a process of its own."""
    start = time.perf_counter()
    llama = server(model, threads)

    def ask(prompt, n):
        answer = llama.handle_completions(
            {"prompt": prompt, "n_predict": n, "temperature": 0.0, "top_k": 1, "samplers": ["top_k"], "repeat_penalty": 1.0, "cache_prompt": False, "ignore_eos": True}
        )
        if "timings" not in answer:
            sys.exit(f"llama.cpp gave no timings: {str(answer)[:400]}")
        return answer["timings"]

    ask(*JOB)
    whole = time.perf_counter() - start
    tokens = [(i * 7919 + 17) % 50_000 for i in range(prompt)]
    ask(tokens, 1)
    read, made = ask(tokens, 1), ask(tokens[:1], generate)
    return {"pp": read["prompt_per_second"], "tg": made["predicted_per_second"], "whole": 1e3 * whole}


def ours(run, model, threads, prompt, generate):
    words = [run, "bench", str(model), "-t", str(threads), "--pp", str(prompt), "--tg", str(generate), "--trials", "1", "--json"]
    answer = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    text, n = JOB
    job = [run, "generate", str(model), "-t", str(threads), "--temp", "0", "--repeat-penalty", "1", "--ignore-eos", "-p", text, "-n", str(n)]
    start = time.perf_counter()
    subprocess.run(job, check=True, capture_output=True)
    return {"pp": answer[f"pp{prompt}"], "tg": answer[f"tg{generate}"], "whole": 1e3 * (time.perf_counter() - start)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=pathlib.Path)
    parser.add_argument("--run", required=True, help="the tinyllm-run program")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pp", type=int, default=512)
    parser.add_argument("--tg", type=int, default=128)
    parser.add_argument("--json", action="store_true", help="a JSON object a model")
    parser.add_argument("--theirs", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.theirs:
        print(json.dumps(theirs(args.models[0], args.threads, args.pp, args.tg)))
        return
    oracle_env.require("xllamacpp=xllamacpp==2026.10.11549")
    with tempfile.TemporaryDirectory() as folder:
        models = args.models
        for size, ty in [] if models else MODELS:
            models = [*models, pathlib.Path(folder) / f"{size}-{ty}.gguf"]
            subprocess.run([args.run, "random", size, "--type", ty, "--out", str(models[-1])], check=True, capture_output=True)
        sides = {
            "theirs": lambda model: json.loads(
                subprocess.run(
                    [sys.executable, __file__, "--theirs", "--run", args.run, "--threads", str(args.threads), "--pp", str(args.pp), "--tg", str(args.tg), str(model)],
                    check=True, capture_output=True, text=True,
                ).stdout.splitlines()[-1]
            ),
            "ours": lambda model: ours(args.run, model, args.threads, args.pp, args.tg),
        }
        if not args.json:
            print(f"{args.threads} threads, tokens/s (whole: ms), medians of {args.rounds} rounds (least .. most of the ratio)")
            print(f"{'model':<20} {'':<6} {'llama.cpp':>10} {'tinyllm':>10} {'ratio':>7}")
        for model in models:
            rounds = []
            for i in range(args.rounds):
                order = ["theirs", "ours"] if i % 2 == 0 else ["ours", "theirs"]
                rounds.append({side: sides[side](model) for side in order})
            for what, name in [("pp", f"pp{args.pp}"), ("tg", f"tg{args.tg}"), ("whole", "whole")]:
                of = {side: statistics.median(r[side][what] for r in rounds) for side in sides}
                ratios = [r["ours"][what] / r["theirs"][what] for r in rounds]
                if args.json:
                    print(json.dumps({"model": model.name, "threads": args.threads, "what": name, "llama.cpp": round(of["theirs"], 1), "tinyllm": round(of["ours"], 1), "ratio": round(statistics.median(ratios), 3), "ratios": [round(x, 3) for x in ratios]}), flush=True)
                else:
                    print(f"{model.stem:<20} {name:<6} {of['theirs']:>10.0f} {of['ours']:>10.0f} {statistics.median(ratios):>7.2f} ({min(ratios):.2f} .. {max(ratios):.2f})", flush=True)


if __name__ == "__main__":
    main()
