#!/usr/bin/env bash
# Everything that needs a GPU, in less than 8 minutes: bench/gpu.sh [FOLDER FOR LOGS AND JSON]
#
#   bench/gpu.sh results                   on a GPU
#   DEVICE=cpu SMALL=1 bench/gpu.sh /tmp/rehearsal     the same script on mini models, in about three minutes
#
# torch, torchaudio, Lightning and this repository are enough: what needs more is skipped with a note. Each
# part has its own limit of time; one that fails does not keep the next from running.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-bench-gpu}
mkdir -p "$out"
out=$(cd "$out" && pwd)
device=${DEVICE:-cuda}
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
if [ -n "${SMALL:-}" ]; then
  size=(--preset mini) batch=4x0.5padded rounds=2 steps=10 files=6 more=(--no-memory)
else
  size=(--preset base) batch=24xlibrispeech rounds=5 steps=200 files=400 more=(--search)
fi
: > "$out/parts.tsv"

part() {  # NAME SECONDS COMMAND...
  local name=$1 limit=$2 started=$SECONDS code result
  shift 2
  printf '\n=== %s\n' "$name"
  timeout --kill-after=10 "$limit" "$@" > >(tee "$out/$name.log") 2>&1
  code=$?
  case $code in 0) result=done ;; 124 | 137) result="stopped after $limit s" ;; *) result="failed ($code)" ;; esac
  printf '%s\t%s\t%s\n' "$name" "$result" "$((SECONDS - started))" >> "$out/parts.tsv"
}

skip() {  # NAME REASON
  printf '\n=== %s\nskipped: %s\n' "$1" "$2"
  printf '%s\tskipped: %s\t0\n' "$1" "$2" >> "$out/parts.tsv"
}

has() { "$python" -c "$(printf 'import %s\n' "$@")" > "$out/.import" 2>&1; }

bench() {  # NAME SECONDS OPTIONS...
  local name=$1 limit=$2
  shift 2
  part "$name" "$limit" "$python" -m bench "$name" --device "$device" "$@" --json "$out/$name.json" \
    --markdown "$out/$name.md"
}

if ! has torch pytorch_lightning torchaudio; then
  cat "$out/.import"
  exit 1
fi
[ "$device" = cuda ] && nvidia-smi
bench step 170 "${size[@]}" --batch "$batch" --rounds "$rounds" "${more[@]}"
bench where 60 "${size[@]}" --batch "$batch" --rounds "$rounds"
bench losses 70 "${size[@]}" --batch "$batch" --steps "$steps"
if has lhotse omegaconf soundfile; then
  bench data 60 --workers 8 --files "$files" --rounds "$rounds"
else
  skip data "$(tail -n 1 "$out/.import")"
fi
if [ "$device" != cuda ]; then
  skip tests "they need a GPU"
elif has pytest soundfile; then
  part tests 100 "$python" -m pytest -m gpu -p no:cacheprovider --continue-on-collection-errors \
    $(grep -rl 'mark\.gpu' tests)
else
  skip tests "$(tail -n 1 "$out/.import")"
fi
rm -f "$out/.import"
"$python" - "$out" << 'PYTHON'
import json, pathlib, sys

out = pathlib.Path(sys.argv[1])
parts = [line.split("\t") for line in (out / "parts.tsv").read_text().splitlines()]
print(f"\n{'part':10}{'seconds':>8}  result")
for name, result, seconds in parts:
    print(f"{name:10}{seconds:>8}  {result}")
found = {path.stem: json.loads(path.read_text()) for path in out.glob("*.json") if path.stem != "all"}
found["parts"] = [{"name": name, "result": result, "seconds": int(s)} for name, result, s in parts]
(out / "all.json").write_text(json.dumps(found, indent=2) + "\n")
print(f"\nall figures: {out / 'all.json'}")
PYTHON
grep -q failed "$out/parts.tsv" && exit 1 || exit 0
