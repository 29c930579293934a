#!/usr/bin/env bash
# The second experiment of docs/experiments.md on the real_mini collection: the teacher of the first, adapted to
# distorted speech, and students of the adapted one, three seeds each.   Usage: real_mini_adapt.sh DATA [OUT]
set -euo pipefail
data=$1
out=${2:-runs/real_mini}

# 1. The teacher of real_mini.sh.
[ -e "$out/teacher/teacher.safetensors" ] || distill adapt real_mini_teacher data.root="$data" --out "$out/teacher"

# 2. Adapted teachers and their students.
for seed in 0 1 2; do
    adapted="$out/t_prime-seed$seed"
    [ -e "$adapted/teacher.safetensors" ] ||
        distill adapt real_mini_teacher_prime data.root="$data" teacher="$out/teacher" seed=$seed --out "$adapted"
    for row in "s1_prime cdm=none" "s4_prime cdm=setup2"; do
        set -- $row
        run="$out/$1-seed$seed"
        [ -e "$run/student.safetensors" ] ||
            distill train real_mini data.root="$data" teacher="$adapted" seed=$seed name="$1-seed$seed" "${@:2}" --out "$run"
    done
done

# 3. How far distortions move each layer, and what is still predicted, on test speech.
noises=(
    --noise musan="$data/noise.tsv?set=seen&split=test" --noise wham="$data/noise.tsv?set=seen&split=test"
    --noise fsd="$data/noise.tsv?set=unseen&split=test" --noise dns="$data/noise.tsv?set=unseen&split=test"
    --noise rir="$data/rir.tsv?split=test"
)
for task in digits keywords; do
    distill probe invariance "$out/teacher" "$out"/t_prime-seed? --speech "$data/$task.tsv?split=test" \
        --condition musan --condition fsd --condition dns "${noises[@]}" --out "$out/invariance_$task.png" |
        tee "$out/invariance_$task.md"
done

# 4. Probes.
for task in digits keywords; do
    echo "## $task"
    distill probe linear "$out"/teacher "$out"/t_prime-seed? "$out"/s1_prime-seed? "$out"/s4_prime-seed? \
        --train "$data/$task.tsv?split=train" --dev "$data/$task.tsv?split=dev" --test "$data/$task.tsv?split=test" \
        --condition clean --condition musan --condition 2-dist --condition fsd --condition dns "${noises[@]}" |
        tee "$out/adapted_$task.md"
done
