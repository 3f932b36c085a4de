#!/bin/bash
# On each of two machines with four GPUs that share a folder: examples/cluster/torchrun.sh NODE_RANK
source .venv/bin/activate
torchrun --nnodes 2 --node-rank "$1" --nproc-per-node 4 --no-python \
  latentmix sweep experiment=fig7 model=sd15 data=imagenet data.path=/data/imagenet --shard auto
