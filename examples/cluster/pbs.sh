#!/bin/bash
# qsub examples/cluster/pbs.sh: eight jobs of PBS. PBS says the index, not the number of jobs.
#PBS -N fig7 -J 0-7 -l select=1:ncpus=4:ngpus=1 -l walltime=8:00:00 -r y
cd "$PBS_O_WORKDIR" && source .venv/bin/activate
export LATENTMIX_SHARDS=8
latentmix sweep experiment=fig7 model=sd15 data=imagenet data.path=/data/imagenet --shard auto
