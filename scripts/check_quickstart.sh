#!/usr/bin/env bash
# Whether the model of a quickstart is as right about people it has never seen as it should be.
# usage: scripts/check_quickstart.sh FOLDER LEAST_ACCURACY
set -euo pipefail
cd "$(dirname "$0")/.."
report=$(target/release/tinyllm-train eval "$1/task" --data "$1/data" --split test --json)
accuracy=$(sed -E 's/^\{"n":[0-9]+,"accuracy":([0-9.]+),.*/\1/' <<<"$report")
printf 'accuracy %s (at least %s); %s\n' "$accuracy" "$2" "$(grep -o '"baselines":{.*}}' <<<"$report")"
awk -v accuracy="$accuracy" -v least="$2" 'BEGIN { exit !(accuracy >= least) }'
