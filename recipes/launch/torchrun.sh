#!/usr/bin/env bash
# Train a recipe with one process per GPU, on this machine or on several, by torchrun.
#
#   torchrun.sh RECIPE [key=value ...]              all GPUs of this machine
#   GPUS=2 torchrun.sh s4 data.root=/corpora        two of them
#
# On several machines: the same command on each, with its number, while all of them reach the first.
#
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=gpu01 torchrun.sh s4      on gpu01
#   NNODES=2 NODE_RANK=1 MASTER_ADDR=gpu01 torchrun.sh s4      on gpu02
#
# Run it again after a crash or a stop and it continues from the run's last checkpoint. A recipe or overrides that
# have changed since are refused: such a run needs a folder of its own (OUT=...).
#
# From the environment:
#   OUT          run folder (runs/RECIPE); all machines have to see the same one
#   GPUS         processes on this machine, one per GPU (all GPUs, or 1 without any)
#   NNODES       machines (1)
#   NODE_RANK    number of this machine, from 0 (0)
#   MASTER_ADDR  name of machine 0 (localhost)
#   MASTER_PORT  a free port of machine 0 (29500)
set -euo pipefail

[ $# -ge 1 ] || { echo "usage: $(basename "$0") RECIPE [key=value ...]" >&2; exit 2; }
recipe=$1
shift
out=${OUT:-runs/$(basename "$recipe" .yaml)}
gpus=${GPUS:-$(python -c 'import torch; print(max(1, torch.cuda.device_count()))')}
nodes=${NNODES:-1}

if [ "$nodes" -eq 1 ]; then
    where=(--standalone) # torchrun finds a free port itself
else
    where=(--nnodes "$nodes" --node-rank "${NODE_RANK:-0}"
        --master-addr "${MASTER_ADDR:-localhost}" --master-port "${MASTER_PORT:-29500}")
fi

run=(--out "$out")
[ ! -e "$out/checkpoints/last.ckpt" ] || run=(--resume "$out")

# The batch size is global: data.batch_size has to be a multiple of GPUS x NNODES.
exec torchrun "${where[@]}" --nproc-per-node "$gpus" \
    -m distill train "${run[@]}" "$recipe" trainer.devices="$gpus" trainer.num_nodes="$nodes" "$@"
