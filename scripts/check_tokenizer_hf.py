#!/usr/bin/env python3
"""Whether Hugging Face's tokenizers, given our vocab.json and merges.txt, cut texts as we do.

For the whole vocabulary, a subset of 2,000 tokens, and the bytes alone. What is compared comes from
`cargo test --release --test tokenizer -- --ignored write_for_hugging_face`, which this runs first.
"""

import json
import subprocess
import sys
from pathlib import Path

import oracle_env

oracle_env.require("transformers")

from transformers import GPT2TokenizerFast

ROOT = Path(__file__).resolve().parent.parent
subprocess.run(["cargo", "test", "--release", "--quiet", "--test", "tokenizer", "--", "--ignored", "write_for_hugging_face"], cwd=ROOT, check=True)

wrong = 0
for folder in sorted((ROOT / "target/tokenizer-hf").iterdir()):
    theirs = GPT2TokenizerFast(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    cases = json.loads((folder / "cases.json").read_text())
    for case in cases:
        # `<|endoftext|>` in a text is ordinary text to us.
        ids = theirs.encode(case["text"], add_special_tokens=False, split_special_tokens=True)
        if ids != case["ids"]:
            wrong += 1
            at = next((i for i, (a, b) in enumerate(zip(ids, case["ids"])) if a != b), min(len(ids), len(case["ids"])))
            print(f"{folder.name}: {case['text'][:60]!r}, token {at}: theirs {ids[at:at + 5]}, ours {case['ids'][at:at + 5]}")
    print(f"{folder.name}: {len(theirs)} tokens, {len(cases)} texts, {sum(len(c['ids']) for c in cases)} ids compared")
sys.exit(f"{wrong} texts differ" if wrong else 0)
