#!/usr/bin/env python3
"""The table of `scripts/gpu_check.sh`: kernel times beside their floors, models, peers as ratios, what failed.

usage: python3 scripts/gpu_table.py results.jsonl    (the standard library is enough)
"""

import json
import sys


def number(x, scale=1.0, digits=1):
    return "-" if x is None else f"{x * scale:,.{digits}f}"


def rows(title, head, lines):
    if not lines:
        return
    table = [head, *lines]
    widths = [max(len(str(row[i])) for row in table) for i in range(len(head))]
    print(f"\n{title}")
    for row in table:
        print("  " + "  ".join(str(cell).ljust(w) if i == 0 else str(cell).rjust(w) for i, (cell, w) in enumerate(zip(row, widths))))


def main():
    parts = [json.loads(line) for line in open(sys.argv[1])]
    results = {p["part"]: p.get("result") or {} for p in parts}
    benches = [r for name, r in results.items() if name.startswith("bench") and r]
    for p in parts:
        if p["part"] == "nvidia-smi":
            print(p["why"])

    if benches and benches[0].get("kernels"):
        first = benches[0]
        kernels = [
            (k["name"], number(k["ms"], digits=3), number(k["floor_ms"], digits=3), number(k["floor_ms"] / k["ms"] * 100 if k["ms"] else None, digits=0))
            for k in first["kernels"]
        ]
        sums = [sum(k[key] for k in first["kernels"]) for key in ("ms", "floor_ms")]
        kernels.append(("all kernels", *(number(s, digits=3) for s in sums), number(sums[1] / sums[0] * 100 if sums[0] else None, digits=0)))
        rows(f"{first['model']}, {first['micro_batch']} x {first['ctx']}: a step's kernels", ("kernel", "ms", "floor ms", "% of floor"), kernels)

    rows(
        "models",
        ("model", "rows x tokens", "lora", "tokens/s", "ms a step", "MFU %", "peak GB"),
        [
            (
                r["model"],
                f"{r['micro_batch']} x {r['ctx']}",
                r.get("lora_rank") or "-",
                number(r["tokens_per_s"], digits=0),
                number(r["ms_per_step"], digits=2),
                number(r.get("mfu"), 100),
                number(r.get("peak_bytes"), 1e-9, 2),
            )
            for r in benches
        ],
    )
    starts = [(name, number(r.get("start_to_first_step_ms"), 1e-3, 2)) for name, r in results.items() if name.startswith("start") and r]
    rows("start to the first step's loss", ("", "s"), starts)
    peers = [
        (f"PyTorch {r['torch']}, {r['model']}", number(r["torch_tokens_per_s"], digits=0), number(r["tokens_per_s"], digits=0), number(r["ratio"], digits=2))
        for name, r in results.items()
        if name.startswith("torch") and r
    ]
    rows("peers, in one run", ("", "theirs, tokens/s", "ours", "ratio"), peers)
    curve = results.get("loss curve")
    if curve:
        print(f"\nloss curve against PyTorch: {curve['worst']:.1e} apart at most over {curve['steps']} steps, bar {curve['bar']}")
    check = results.get("check")
    if check:
        print(f"\ncheck: {len(check['cases'])} cases, {check['failed']} failed, {check['seconds']:.0f} s, {check['device']} against {check['against']}")
        rows("worst by precision, in units of the bar", ("case", "precision", "output", "times its bar"), list(worst(check["cases"])))
        for case in check["cases"]:
            if case["failure"]:
                print(f"  FAILED {case['case']} ({case['precision']}, {case['sizes']}): {case['failure']}")

    rows("parts", ("", "s", ""), [(p["part"], p["seconds"], verdict(p)[:80]) for p in parts])


def worst(cases):
    """The three that came closest to their bars, of each precision."""
    known = [(c["error"] / c["bar"], c) for c in cases if c["error"] is not None and c["bar"]]
    for precision in sorted({c["precision"] for _, c in known}):
        of_it = sorted((pair for pair in known if pair[1]["precision"] == precision), key=lambda pair: -pair[0])
        yield from ((c["case"], precision, c["worst"], number(strain, digits=3)) for strain, c in of_it[:3])


def verdict(part):
    if part["rc"] == 0:
        return part["why"] if part["why"].startswith("skipped") else "ok"
    return f"FAILED: {part['why']}"


if __name__ == "__main__":
    main()
