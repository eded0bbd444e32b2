#!/usr/bin/env python3
"""ARM instructions of a generated token, of a prompt token and from start, by differences between whole runs under qemu-aarch64.

    arm_count.py --cpu cortex-a53 --plugin libicount.so [--top 10] -- PROGRAM ... {prompt} ... {n} ...

{prompt} is replaced by a text of one GPT-2 token a word, {n} by the number of tokens to generate. The program is to take the likeliest
token, on one thread, and not to end early. Counts are exact and repeat to about 0.001 %; they are instructions, not cycles.
The program may be any: for llama.cpp, its `llama-completion` with the same places for prompt and number.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile

WORDS = ("the quick brown fox jumps over the lazy dog and runs to the river with a red ball in the sun " * 40).split()


def run(args, tokens, n):
    """Instructions of a run with a prompt of `tokens` that makes `n`: in all, and by function."""
    prompt = " ".join(["the", *WORDS[: tokens - 1]])
    command = [part.replace("{prompt}", prompt).replace("{n}", str(n)) for part in args.command]
    with tempfile.NamedTemporaryFile("r", suffix=".icount") as counts:
        plugin = f"{os.path.abspath(args.plugin)},top=400,out={counts.name}"
        sysroot = ["-L", args.sysroot] if args.sysroot else []
        emulated = ["qemu-aarch64", *sysroot, "-cpu", args.cpu, "-plugin", plugin, *command]
        # The plugin's counters are not atomic: with one thread none is lost.
        one_thread = dict(os.environ, OMP_NUM_THREADS="1", RAYON_NUM_THREADS="1")
        done = subprocess.run(emulated, env=one_thread, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command[:2])} under {args.cpu}: exit {done.returncode}: {done.stderr[-300:]}")
        total, functions = 0, {}
        for line in counts:
            if match := re.match(r"icount total (\d+)", line):
                total = int(match[1])
            elif match := re.match(r"icount\s+(\d+)\s+[\d.]+% (.*)", line):
                functions[match[2]] = functions.get(match[2], 0) + int(match[1])
    if total == 0:
        sys.exit("the plugin counted nothing: does the emulator load plugins?")
    return total, functions


def show(name, low, high, per, top):
    """What `high` has above `low`, divided by `per`."""
    (low_total, low_functions), (high_total, high_functions) = low, high
    print(f"{name}: {(high_total - low_total) / per / 1e6:.3f} million instructions")
    more = {f: n - low_functions.get(f, 0) for f, n in high_functions.items()}
    for f in sorted(more, key=more.get, reverse=True)[:top]:
        print(f"    {more[f] / per / 1e6:9.3f} M  {100 * more[f] / (high_total - low_total):5.1f} %  {f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", default="cortex-a53")
    parser.add_argument("--plugin", required=True, help="icount.c, built")
    parser.add_argument("--sysroot", help="for a program that is not static")
    parser.add_argument("--top", type=int, default=0, help="functions to show")
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    show("generated token", run(args, 8, 4), run(args, 8, 20), 16, args.top)
    show("prompt token", run(args, 32, 1), run(args, 160, 1), 128, args.top)
    show("start, a prompt of 2 tokens, 1 token", (0, {}), run(args, 2, 1), 1, args.top)


main()
