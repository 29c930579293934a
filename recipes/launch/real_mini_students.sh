#!/usr/bin/env bash
# The experiment "better than the paper at equal size" of docs/experiments.md on the real_mini collection: students
# beyond the paper beside s4, evaluated with SUPERB's heads on digits and wake words, clean, distorted and at five
# SNRs of unseen noise.   Usage: [ARMS="s4 robust ..."] real_mini_students.sh DATA [OUT] [SEED ...]
# What OUT has is kept: run it again to go on, or with other seeds or arms to add them.
set -euo pipefail
data=$(realpath "$1")
out=${2:-runs/real_mini_students}
seeds=("${@:3}")
[ ${#seeds[@]} -gt 0 ] || seeds=(0 1 2)
mkdir -p "$out/arms"
wanted() { [ -z "${ARMS:-}" ] || [[ " $ARMS " == *" $1 "* ]]; }

# 1. Students by name; those of a group have all but the student in common, and read their data once.
arm() { # NAME, and the lines of its recipe
    printf '%s\n' "extends: real_mini" "name: $1" "description: $1" "${@:2}" >"$out/arms/$1.yaml"
}
arm s4 "cdm: setup2"
arm corr "cdm: setup2" "objective: {correlation: {weight: 1.0}}"
arm corr3 "cdm: setup2" "objective: {correlation: {weight: 3.0}}"
arm input "cdm: setup2" "objective: {input: 1.0}"
arm relations "cdm: setup2" "objective: {relations: {weight: 1.0}}"
arm units "cdm: setup2" \
    "objective: {units: {weight: 1.0, codebook: $(realpath "$out")/units/train, layer: 4, probability: 0.4, length: 4}}"
arm enh-last "cdm: setup2" "objective: {enhancement: {weight: 1.0, place: last, dim: 64, layers: 1}}"
arm enh-cnn "cdm: setup2" "objective: {enhancement: {weight: 1.0, place: cnn, dim: 64, layers: 1}}"
arm mel "cdm: setup2" "student: {front: mel}"
arm mel-input "cdm: setup2" "student: {front: mel}" "objective: {input: 1.0}"
arm mel-corr "cdm: setup2" "student: {front: mel, front_channels: 128}" \
    "objective: {input: 1.0, correlation: {weight: 1.0}}"
arm slim "cdm: setup2" "student: {front: slim}" "objective: {input: 1.0}"
arm reuse "cdm: setup2" "student: {reuse_attention: true}"
arm thin "cdm: setup2" \
    "student: {layers: 6, dim: 72, heads: 4, ffn_dim: 288, targets: [1, 2, 3, 4, 5, 6], layer_to_layer: true}"
arm thin-sparse "cdm: setup2" \
    "student: {layers: 6, dim: 72, heads: 4, ffn_dim: 288, targets: [2, 4, 6], layer_to_layer: true}"
arm snr0-20 "cdm: setup2" "distortion: {snr_db: [0, 20]}"
arm curriculum "cdm: setup2" "distortion: {snr_db: [0, 20], curriculum: 0.5}"
arm speech "cdm: setup2" "distortion: {additive: [musan, wham, gaussian, speech, none]}"
arm setup1-snr "cdm: setup1" "distortion: {snr_db: [0, 20]}"
arm setup1-snr-corr "cdm: setup1" "distortion: {snr_db: [0, 20]}" "objective: {correlation: {weight: 1.0}}"
arm robust "cdm: setup1" "distortion: {snr_db: [0, 20]}" "objective: {correlation: {weight: 3.0}}"
arm robust_mel "cdm: setup1" "distortion: {snr_db: [0, 20]}" "student: {front: mel, front_channels: 128}" \
    "objective: {input: 1.0, correlation: {weight: 3.0}}"
arm robust_mel-32 "cdm: setup1" "distortion: {snr_db: [0, 20]}" "student: {front: mel}" \
    "objective: {input: 1.0, correlation: {weight: 3.0}}"
arm robust_mel-no-input "cdm: setup1" "distortion: {snr_db: [0, 20]}" "student: {front: mel, front_channels: 128}" \
    "objective: {correlation: {weight: 3.0}}"
arm robust_mel-no-corr "cdm: setup1" "distortion: {snr_db: [0, 20]}" "student: {front: mel, front_channels: 128}" \
    "objective: {input: 1.0}"
arm s4_prime "cdm: setup2"
arm corr_prime "cdm: setup2" "objective: {correlation: {weight: 1.0}}"
arm robust_prime "cdm: setup1" "distortion: {snr_db: [0, 20]}" "objective: {correlation: {weight: 3.0}}"
arm robust_mel_prime "cdm: setup1" "distortion: {snr_db: [0, 20]}" "student: {front: mel, front_channels: 128}" \
    "objective: {input: 1.0, correlation: {weight: 3.0}}"

groups=(
    "s4 corr corr3 input relations units enh-last enh-cnn mel mel-input mel-corr slim reuse thin thin-sparse"
    "setup1-snr setup1-snr-corr robust robust_mel robust_mel-32 robust_mel-no-input robust_mel-no-corr"
    "snr0-20" "curriculum" "speech" "s4_prime corr_prime" "robust_prime robust_mel_prime"
)
for name in ${ARMS:-}; do
    [[ " ${groups[*]} " == *" $name "* ]] || { echo "no arm is called $name: choose from ${groups[*]}" >&2; exit 2; }
done

# 2. The teacher, its units (for "units"), and the teachers adapted to distorted speech (for "..._prime").
[ -e "$out/teacher/teacher.safetensors" ] || distill adapt real_mini_teacher data.root="$data" --out "$out/teacher"
if wanted units && [ ! -e "$out/units" ]; then
    distill adapt targets real_mini_teacher data.root="$data" --teacher "$out/teacher" \
        --layer 4 --clusters 50 --out "$out/units"
fi
for seed in "${seeds[@]}"; do
    [[ "${ARMS:-_prime}" == *_prime* ]] || break
    adapted="$out/t_prime-seed$seed"
    [ -e "$adapted/teacher.safetensors" ] ||
        distill adapt real_mini_teacher_prime data.root="$data" teacher="$out/teacher" seed="$seed" --out "$adapted"
done

# 3. Students.
for seed in "${seeds[@]}"; do
    for group in "${groups[@]}"; do
        teacher="$out/teacher"
        case $group in *_prime*) teacher="$out/t_prime-seed$seed" ;; esac
        recipes=()
        for name in $group; do
            if wanted "$name" && [ ! -e "$out/students/$name-seed$seed/student.safetensors" ]; then
                recipes+=("$out/arms/$name.yaml")
            fi
        done
        [ ${#recipes[@]} -eq 0 ] ||
            distill train "${recipes[@]}" --seeds "$seed" data.root="$data" teacher="$teacher" --out "$out/students"
    done
done

# 4. Heads on clean speech, tested clean, distorted, and at five SNRs of unseen noise.
noises=(
    --noise musan="$data/noise.tsv?set=seen&split=test" --noise wham="$data/noise.tsv?set=seen&split=test"
    --noise fsd="$data/noise.tsv?set=unseen&split=test" --noise dns="$data/noise.tsv?set=unseen&split=test"
    --noise rir="$data/rir.tsv?split=test"
)
conditions=()
for condition in clean 2-dist fsd dns fsd@20 fsd@10 fsd@5 fsd@0 fsd@-5; do conditions+=(--condition "$condition"); done
for seed in "${seeds[@]}"; do
    for model in "$out/teacher" "$out"/students/*-seed"$seed"; do
        for task in digits keywords; do
            scored="$out/evaluations/$task/$(basename "${model%-seed*}")-seed$seed"
            distill evaluate ks --student "$model" --seed "$seed" "${noises[@]}" "${conditions[@]}" --out "$scored" \
                sources.train="$data/$task.tsv?split=train" sources.dev="$data/$task.tsv?split=dev" \
                sources.test="$data/$task.tsv?split=test" \
                label=label crop_s=0 steps=1000 every_n_steps=100 cache=float32 workers=0
        done
    done
done

# 5. Tables of differences to s4, what students cost a device, and the picture.
for task in digits keywords; do
    echo "## $task"
    distill table "$out/evaluations/$task" --against s4 | tee "$out/$task.md"
done
python -m bench students --json "$out/students.json" | tee "$out/students.md"
python docs/make_students_figure.py "$out/evaluations" "$out/students.json" "$out/students.png"
