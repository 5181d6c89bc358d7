"""One of two processes: python pair.py PORT INDEX WORKDIR."""

import json
import os
import signal
import sys

import jax
import numpy as np
import toy_game

from jaxtok.train import processes
from jaxtok.train.loop import train

port, index, workdir = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=index)
config = toy_game.sharded(steps=30, evaluate_every=5, keep_best="error")


def interrupt(step, *_):
    if index == 1 and step == 14:
        os.kill(os.getpid(), signal.SIGTERM)  # this process alone


first = train(config, workdir, stop_after=7)
result = train(config, workdir, callbacks=[interrupt])  # resumes
params = processes.whole(result.state.params)  # each process has half of the sharded ones
size = sum(float(np.abs(leaf).sum()) for leaf in jax.tree.leaves(params))
parts = [leaf.is_fully_addressable for leaf in jax.tree.leaves(result.state.params)]
found = {"size": size, "divided": not all(parts)}
found |= {"first": first.step, "step": result.step, "reason": result.reason}
print(json.dumps(found | {"metrics": result.metrics, "evaluation": result.evaluation}))
