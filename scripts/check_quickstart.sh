#!/usr/bin/env bash
# Whether the model of a quickstart is as right about people it has never seen as it should be.
# usage: scripts/check_quickstart.sh FOLDER LEAST_ACCURACY
set -euo pipefail
cd "$(dirname "$0")/.."
report=$(target/release/tinyllm-train eval "$1/task" --data "$1/data" --split test --json)
python3 - "$report" "$2" <<'PY'
import json, sys
report, least = json.loads(sys.argv[1]), float(sys.argv[2])
print(f"accuracy {report['accuracy']:.3f} (at least {least}), macro-F1 {report['macro_f1']:.3f}, baselines {report['baselines']}")
sys.exit(report["accuracy"] < least)
PY
