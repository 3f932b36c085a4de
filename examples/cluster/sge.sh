#!/bin/bash
# qsub examples/cluster/sge.sh: eight tasks of Grid Engine. What a GPU is called (-l gpu=1) differs between clusters.
#$ -N fig7 -t 1-8 -l gpu=1 -l h_rt=8:00:00 -r y -cwd
source .venv/bin/activate
latentmix sweep experiment=fig7 model=sd15 data=imagenet data.path=/data/imagenet --shard auto
