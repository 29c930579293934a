#!/usr/bin/env bash
# The SPIRAL experiment of docs/experiments.md on the real_mini collection: mini teachers of equal size and equal compute,
# three seeds each, and students of the better ones: linear probes on digits and keywords.
# Usage: real_mini_spiral.sh DATA [OUT [ARM]]      ARM: the SPIRAL teacher that is distilled (spiral_noise)
set -euo pipefail
data=$1
out=${2:-runs/real_mini_spiral}
arm=${3:-spiral_noise}
export OMP_NUM_THREADS=1                  # the seeds run side by side

train() { # VERB RECIPE MODEL-SEED [key=value ...]: unless it exists; with the seed of its name
    local made="$out/$3"
    [ -e "$made/teacher.safetensors" ] || [ -e "$made/student.safetensors" ] ||
        distill "$1" "$2" data.root="$data" data.workers=0 seed="${3##*seed}" name="$3" "${@:4}" --out "$made" 2>"$made.log" ||
        { tail -n 3 "$made.log" >&2; return 1; }
}

# 1. Teachers. 200 updates of the HuBERT (16 utterances, 0.60 CPU seconds each) and its MFCC targets (16 CPU seconds) cost
#    as much as 400 of the SPIRAL (12 utterances, 0.34 CPU seconds). "random" are the weights that training begins with.
updates=${UPDATES:-400}
teachers() { # SEED
    train train t1 "random-seed$1" teacher=random:spiral_mini
    train train t1 "random_hubert-seed$1" teacher=random:mini
    local steps=(optim.max_steps="$updates" validation.every_n_steps="$((updates / 2))")
    train train real_mini_spiral "spiral-seed$1" "${steps[@]}"
    train train real_mini_spiral "spiral_no_shift-seed$1" "${steps[@]}" shift=0
    train train real_mini_spiral "spiral_noise-seed$1" "${steps[@]}" distort=true
    steps=(optim.max_steps="$((updates / 2))" validation.every_n_steps="$((updates / 4))")
    train adapt real_mini_teacher "hubert-seed$1" "${steps[@]}"
}

# 2. Students of two layers: both networks hear distortions, drawn independently (setup2).
students() { # SEED
    local steps=(optim.max_steps="$updates" validation.every_n_steps="$((updates / 4))")
    train train real_mini "s4_$arm-seed$1" "${steps[@]}" teacher="$out/$arm-seed$1" "student.targets=[1,3,4]"
    train train real_mini "s4_hubert-seed$1" "${steps[@]}" teacher="$out/hubert-seed$1"
}

mkdir -p "$out"
for step in teachers students; do
    pids=()
    for seed in 0 1 2; do
        $step $seed &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid"; done
done

# 3. Probes: clean; noise types of training at 0 dB (musan); unseen types at 10 and 0 dB (fsd), and in a room (dns).
models=("$out"/{random,random_hubert,spiral,spiral_no_shift,spiral_noise,hubert,"s4_$arm",s4_hubert}-seed{0,1,2})
for task in digits keywords; do
    echo "## $task"
    distill probe linear "${models[@]}" \
        --train "$data/$task.tsv?split=train" --dev "$data/$task.tsv?split=dev" --test "$data/$task.tsv?split=test" \
        --condition clean --condition musan@0 --condition fsd@10 --condition fsd@0 --condition dns@10 \
        --noise musan="$data/noise.tsv?set=seen&split=test" --noise fsd="$data/noise.tsv?set=unseen&split=test" \
        --noise dns="$data/noise.tsv?set=unseen&split=test" --noise rir="$data/rir.tsv?split=test" | tee "$out/$task.md"
done
