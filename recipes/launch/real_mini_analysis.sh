#!/usr/bin/env bash
# The analyses of docs/experiments.md on the real_mini collection: noise in the waveform and in single layers, what
# noise does to every layer, what layers share with mel filter banks, t-SNE. Of the teacher, and of three seeds each
# of the adapted teacher, s1, s4 and s4_prime.   Usage: real_mini_analysis.sh DATA [OUT]   (after real_mini_adapt.sh)
set -euo pipefail
data=$(realpath "$1")
out=${2:-runs/real_mini}
models=("$out/teacher" "$out"/{t_prime,s1,s4,s4_prime}-seed{0,1,2})
first=("$out/teacher" "$out"/{t_prime,s1,s4,s4_prime}-seed0)
words="$data/keywords.tsv?split=test"
noises=(
    --noise musan="$data/noise.tsv?set=seen&split=test" --noise fsd="$data/noise.tsv?set=unseen&split=test"
    --noise dns="$data/noise.tsv?set=unseen&split=test" --noise rir="$data/rir.tsv?split=test"
)

# 1. Which layers noise moves (E2B), and what noise after one layer does to the last (E2A).
distill probe activations "${models[@]}" --speech "$words" --utterances all --rho 0.1 --rho 0.3 --rho 0.5 \
    --condition musan --condition fsd --condition dns "${noises[@]}" --out "$out/analyses/activations"
distill probe layers "${models[@]}" --speech "$words" --utterances 60 --sigma 0 --sigma 0.2 --sigma 0.4 --sigma 0.6 \
    --out "$out/analyses/layers"

# 2. What layers share with local features and with mel filter banks; random weights as a control.
distill cca "$out/teacher" --random --speech "$data/unlabelled.tsv" --out "$out/analyses/cca"
distill cca "${models[@]}" --speech "$data/unlabelled.tsv" --out "$out/analyses/cca"

# 3. t-SNE of one seed, and its ratio for all.
distill tsne "${first[@]}" --speech "$words" "${noises[@]}" --out "$out/analyses/tsne"
distill tsne "${models[@]}" --speech "$words" "${noises[@]}" --out "$out/analyses/tsne_seeds"

# 4. Heads for wake words on clean speech, then their errors under perturbations (E1).
recognisers=()
for model in "${models[@]}"; do
    name=$(basename "$model")
    seed=${name##*seed}
    [ "$seed" != "$name" ] || seed=0
    distill evaluate ks --student "$model" --seed "$seed" --condition clean --out "$out/analyses/evaluations/$name" \
        sources.train="$data/keywords.tsv?split=train" sources.dev="$data/keywords.tsv?split=dev" \
        sources.test="$words" label=label crop_s=0 steps=400 every_n_steps=100 cache=float32 workers=0
    recognisers+=("$model@$out/analyses/evaluations/$name/heads/ks-last-seed$seed")
done
distill probe waveform "${recognisers[@]}" --speech "$words" --utterances all "${noises[@]}" \
    --perturb white_noise=0,0.1,0.3,0.6,1 --perturb speed=50,75,100,150,200 --perturb chunk_length=0,20,50,100 \
    --perturb background:musan=20,10,5,0,-5 --perturb background:fsd=20,10,5,0,-5 --out "$out/analyses/waveform"
distill probe waveform "${recognisers[@]}" --speech "$words" --utterances 60 --perturb fgsm=50,40,30,20 \
    --perturb pgd=40 --out "$out/analyses/attacks"
