#!/bin/bash
# sbatch examples/cluster/slurm.sh: eight jobs, which return to the queue when they are preempted.
# `latentmix sweep ... launch=slurm launch.shards=8` submits such an array by itself.
#SBATCH --job-name=fig7 --array=0-7 --gpus=1 --cpus-per-task=4 --time=8:00:00 --requeue
source .venv/bin/activate
latentmix sweep experiment=fig7 model=sd15 data=imagenet data.path=/data/imagenet --shard auto
