#!/usr/bin/env bash
# The third experiment of docs/experiments.md on the real_mini collection: every row of the paper's Table 1 that has
# two layers, three seeds each, evaluated with SUPERB's heads on digits, wake words and coffee orders.
# Usage: real_mini_rows.sh DATA [OUT]       (after real_mini_adapt.sh, whose teachers it uses)
set -euo pipefail
data=$(realpath "$1")
out=${2:-runs/real_mini}

# 1. Students of the teacher and of the adapted teachers.
rows=("s1 cdm=none" "s2 cdm=setup1" "s3 cdm=setup2_same" "s4 cdm=setup2"
    "s5 cdm=setup1 dat.enabled=true" "s6 cdm=setup2 dat.enabled=true")
for seed in 0 1 2; do
    for row in "${rows[@]}"; do
        set -- $row
        for kind in "" _prime; do
            run="$out/rows/$1$kind-seed$seed"
            teacher="$out/teacher"
            [ -z "$kind" ] || teacher="$out/t_prime-seed$seed"
            [ -e "$run/student.safetensors" ] ||
                distill train real_mini data.root="$data" teacher="$teacher" seed=$seed name="mini_$1$kind" "${@:2}" --out "$run"
        done
    done
done

# 2. The orders, a slot that is not named being "none": drink|size|roast.
python - "$data" "$out/intents.tsv" <<'PYTHON'
import csv
import json
import sys

data, out = sys.argv[1:]
with open(f"{data}/intents.tsv", encoding="utf-8") as table, open(out, "w", encoding="utf-8") as file:
    print("path\tintent\tsplit", file=file)
    for row in csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE):
        slots = json.loads(row["slots"])
        intent = "|".join(slots.get(name, "none") for name in ("coffeeDrink", "size", "roast"))
        print(f"{data}/{row['path']}\t{intent}\t{row['split']}", file=file)
PYTHON

# 3. Heads on clean speech, tested clean and distorted.
noises=(
    --noise musan="$data/noise.tsv?set=seen&split=test" --noise wham="$data/noise.tsv?set=seen&split=test"
    --noise fsd="$data/noise.tsv?set=unseen&split=test" --noise dns="$data/noise.tsv?set=unseen&split=test"
    --noise rir="$data/rir.tsv?split=test"
)
evaluate() { # TASK LIST MODEL SEED [key=value ...]
    distill evaluate "$1" --student "$3" --seed "$4" "${noises[@]}" --out "$out/evaluations/$(basename "$2" .tsv)/$(basename "$3")" \
        sources.train="$2?split=train" sources.dev="$2?split=dev" sources.test="$2?split=test" \
        steps=1000 every_n_steps=100 cache=float32 workers=0 "${@:5}"
}
for seed in 0 1 2; do
    for model in "$out/teacher" "$out/t_prime-seed$seed" "$out"/rows/*-seed$seed; do
        evaluate ks "$data/digits.tsv" "$model" $seed label=label crop_s=0
        evaluate ks "$data/keywords.tsv" "$model" $seed label=label crop_s=0
        evaluate ic "$out/intents.tsv" "$model" $seed label=intent lr=1e-3
    done
done
for task in digits keywords intents; do
    echo "## $task"
    distill table --measured "$out/evaluations/$task" | tee "$out/$task.md"
done
