#!/usr/bin/env bash
# The experiment of docs/experiments.md on the real_mini collection: one teacher, students s1, s4 and s6 with three
# seeds each, linear probes on digits and keywords.   Usage: real_mini.sh DATA [OUT]
set -euo pipefail
data=$1
out=${2:-runs/real_mini}

# 1. A small HuBERT from scratch.
[ -e "$out/teacher/teacher.safetensors" ] || distill adapt real_mini_teacher data.root="$data" --out "$out/teacher"

# 2. Students: plain DistilHuBERT, setup2, setup2 + DAT.
for seed in 0 1 2; do
    for row in "s1 cdm=none" "s4 cdm=setup2" "s6 cdm=setup2 dat.enabled=true"; do
        set -- $row
        run="$out/$1-seed$seed"
        [ -e "$run/student.safetensors" ] ||
            distill train real_mini data.root="$data" teacher="$out/teacher" seed=$seed name="$1-seed$seed" "${@:2}" --out "$run"
    done
done

# 3. Probes: clean, noise types heard in training (musan), unseen types (fsd), unseen types and room responses (dns).
for task in digits keywords; do
    echo "## $task"
    distill probe linear "$out"/teacher "$out"/s?-seed? \
        --train "$data/$task.tsv?split=train" --dev "$data/$task.tsv?split=dev" --test "$data/$task.tsv?split=test" \
        --condition clean --condition musan --condition 2-dist --condition fsd --condition dns \
        --noise musan="$data/noise.tsv?set=seen&split=test" --noise wham="$data/noise.tsv?set=seen&split=test" \
        --noise fsd="$data/noise.tsv?set=unseen&split=test" --noise dns="$data/noise.tsv?set=unseen&split=test" \
        --noise rir="$data/rir.tsv?split=test" | tee "$out/$task.md"
done
