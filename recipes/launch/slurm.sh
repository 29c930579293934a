#!/usr/bin/env bash
# Train a recipe on a SLURM cluster, one task per GPU. Change the #SBATCH lines to what your cluster has.
#
#   sbatch slurm.sh RECIPE [key=value ...]                one node, four GPUs
#   sbatch --nodes=2 slurm.sh s4 data.root=/corpora       two nodes, eight GPUs
#   sbatch --gpus-per-node=1 --ntasks-per-node=1 slurm.sh mini
#
# Two minutes before its time is up the job is sent SIGUSR1: distill saves a checkpoint, puts the job back into
# the queue and ends; when it starts again, it continues from there. The same happens when the job is preempted,
# if the cluster sends that signal (PreemptParameters=send_user_signal) or leaves SIGTERM time to work
# (GraceTime): distill saves on SIGTERM, too. Killed without a warning, it continues from the last validation.
#
# From the environment:
#   OUT    run folder (runs/RECIPE), on a disk that all nodes share
#
# data.batch_size is global: it has to be a multiple of nodes x tasks per node.
#SBATCH --job-name=distill
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

[ $# -ge 1 ] || { echo "usage: sbatch slurm.sh RECIPE [key=value ...]" >&2; exit 2; }
recipe=$1
shift
out=${OUT:-runs/$(basename "$recipe" .yaml)}

# Decided here, once: a task that starts late must not see the checkpoint of one that started early.
run=(--out "$out")
[ ! -e "$out/checkpoints/last.ckpt" ] || run=(--resume "$out")

# Tasks are told apart by SLURM's variables. One that fails ends the others, which would wait for it in vain.
# srun does not take the number of CPUs over from sbatch by itself: with one, data workers would queue up.
srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" python -m distill train "${run[@]}" "$recipe" \
    trainer.devices="$SLURM_NTASKS_PER_NODE" trainer.num_nodes="$SLURM_JOB_NUM_NODES" "$@"
