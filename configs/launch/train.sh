#!/bin/bash
# Trains on one machine, with Lightning's own launcher, until the run is done: goes on by itself after
# train.py was stopped (exit code 75), and ends with the code of anything else. A signal to this script,
# or Ctrl-C, is for good: the training writes its checkpoint, and the script ends with 75.
#   configs/launch/train.sh -c configs/experiment/demo.yaml --trainer.devices 2
set -u
child= asked=
trap 'asked=1; kill -TERM "$child" 2>/dev/null' INT TERM
for _ in {1..100}; do
  python train.py fit "$@" --run.resume auto &
  child=$!
  [ -z "$asked" ] || kill -TERM "$child"  # asked before there was a child
  wait "$child"
  code=$?
  while kill -0 "$child" 2>/dev/null; do  # a signal ends `wait` before the child has ended
    wait "$child"
    code=$?
  done
  [ $code -eq 75 ] && [ -z "$asked" ] || exit $code
done
exit 75
