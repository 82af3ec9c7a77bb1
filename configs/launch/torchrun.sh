#!/bin/bash
# Trains on one machine below torchrun, which begins again by itself when a process has died. Its exit
# code is 1 whatever theirs were.
#   configs/launch/torchrun.sh 2 -c configs/experiment/demo.yaml
set -eu
processes=$1
shift
exec torchrun --standalone --nproc-per-node "$processes" --max-restarts 3 \
  train.py fit "$@" --trainer.devices "$processes" --run.resume auto
