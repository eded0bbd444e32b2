#!/usr/bin/env bash
# Everything that only a GPU can tell, from a copied release build: no Rust, no network, no jq. Correctness first, then speed:
# `check`, `bench` of all five models and of smaller micro-batches, LoRA, starts with an empty and a full cache, PyTorch's step and its
# loss curve where python3 has torch.
#
# usage: scripts/gpu_check.sh [RESULTS]
#   BIN=DIR      where tinyllm-train lies; target/release beside this folder, if not given
#   BUDGET=480   seconds in all; what does not fit any more is told as such
#   DEVICE=cuda  cpu tries the script itself out, with a small model
#
# RESULTS ($OUT, or ./gpu-results) gets results.jsonl (a line a part: name, exit code, seconds, the program's own JSON), log.txt with
# everything that was printed, and table.txt, which is printed last. A part that fails stops nothing; the exit code is 1 if one did.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
results=${1:-${OUT:-gpu-results}}
device=${DEVICE:-cuda}
budget=${BUDGET:-480}
export BIN=${BIN:-$here/../target/release}
train=$BIN/tinyllm-train
[ -x "$train" ] || { echo "gpu_check.sh: $train: there is no program; build it with 'cargo build --release', or say BIN=DIR" >&2; exit 2; }
mkdir -p "$results" && results=$(cd "$results" && pwd) || exit 2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# Kernels compiled before would hide what a first start takes.
export XDG_CACHE_HOME=$scratch/cache
lines=$results/results.jsonl log=$results/log.txt failed=0
: >"$lines"
: >"$log"

quoted() { # text as a JSON string
    local text=${1//\\/\\\\}
    text=${text//\"/\\\"}
    printf '"%s"' "${text//[$'\n\r\t']/ }"
}

part() { # name, most seconds, command...: runs it and keeps its last line of JSON
    local name=$1 limit=$2 left=$((budget - SECONDS)) start=$SECONDS code=0 json
    shift 2
    if [ "$left" -lt 10 ]; then
        echo "{\"part\":$(quoted "$name"),\"rc\":null,\"seconds\":0,\"why\":\"no time left\"}" >>"$lines"
        echo "-- $name: no time left" | tee -a "$log"
        failed=1
        return
    fi
    limit=$((limit < left ? limit : left))
    echo "== $name: $*" | tee -a "$log"
    timeout "$limit" "$@" >"$scratch/out" 2> >(tee -a "$log" >"$scratch/err") || code=$?
    cat "$scratch/out" >>"$log"
    json=$(grep -a '^{.*}$' "$scratch/out" | tail -n 1)
    # What went well and printed no JSON said why: "skipped: ...".
    local why
    why=$(cat "$scratch/err" "$scratch/out" | grep -av '^{' | grep -av '^ *$' | tail -n 1)
    [ "$code" = 124 ] && why="took more than its $limit seconds"
    echo "{\"part\":$(quoted "$name"),\"rc\":$code,\"seconds\":$((SECONDS - start)),\"why\":$(quoted "$why"),\"result\":${json:-null}}" >>"$lines"
    if [ "$code" = 0 ]; then
        echo "   done, $((SECONDS - start)) s"
    else
        echo "   FAILED ($code): $why"
        failed=1
    fi
}

if [ "$device" = cuda ]; then
    models="124m 102m 82m 51m 30m" large=64 small="4 8 16 32" ctx=1024 curve="--model 124m --steps 200 --micro-batch 16 --accumulate 1"
    peer="--model 124m --micro-batch 64"
    part "nvidia-smi" 20 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv,noheader
else
    models="nano" large=4 small="1 2" ctx=64 curve="--model nano --steps 20"
    peer="--model 30m --micro-batch 1 --rounds 1 --steps 1"
fi
bench=("$train" bench --device "$device" --ctx "$ctx" --json)
first=${models%% *}
part "start, empty cache" 60 "${bench[@]}" --model "$first" --micro-batch 4 --steps 1 --no-kernels
part "check" 150 "$train" check --device "$device" --json
part "start, full cache" 30 "${bench[@]}" --model "$first" --micro-batch 4 --steps 1 --no-kernels
part "bench $first, $large" 60 "${bench[@]}" --model "$first" --micro-batch "$large"
part "loss curve" 120 python3 "$here/loss_curve.py" --device "$device" $curve --json
part "torch" 120 python3 "$here/peer_torch.py" --device "$device" $peer --ctx "$ctx" --json
for model in $models; do
    [ "$model" = "$first" ] || part "bench $model, $large" 30 "${bench[@]}" --model "$model" --micro-batch "$large"
done
part "bench $first, $large, lora" 30 "${bench[@]}" --model "$first" --micro-batch "$large" --lora-rank 16 --counted 0.1
for rows in $small; do
    part "bench $first, $rows" 30 "${bench[@]}" --model "$first" --micro-batch "$rows" --no-kernels
done

if command -v python3 >/dev/null && python3 "$here/gpu_table.py" "$lines" >"$results/table.txt"; then
    cat "$results/table.txt"
else
    # Nothing reads the lines here: the programs' own words, then.
    grep -a -e '^== ' -e '^check:' -e tokens "$log" | tee "$results/table.txt"
fi
echo "$results: results.jsonl, table.txt, log.txt; $SECONDS s"
exit "$failed"
