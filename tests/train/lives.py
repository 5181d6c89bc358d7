"""A parent that forks training processes and ends them: python lives.py kill|term WORKDIR.

The imports are made once, before the fork and before any device is touched, so that a life costs a second.
"""

import json
import os
import pathlib
import random
import signal
import sys
import time

import toy_game

from jaxtok.train.loop import train

WORKDIR = pathlib.Path(sys.argv[2])
ENDLESS = 10**6


def config(steps):
    return toy_game.config(steps=steps, log_every=1, checkpoint_every=8, ema=0.9)


def born(steps):
    """Forks a life that trains; returns its pid once its first step is done."""
    sign = WORKDIR.with_suffix(".started")
    sign.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            train(config(steps), WORKDIR, callbacks=[lambda *_: sign.exists() or sign.touch()])
            code = 0
        finally:
            os._exit(code)
    while not sign.exists() and os.waitpid(pid, os.WNOHANG) == (0, 0):
        time.sleep(0.001)
    return pid


def folders(whole):
    found = WORKDIR / "checkpoints"
    if not found.exists():
        return set()
    return {p.name for p in found.iterdir() if (p / "manifest.json").exists() == whole}


def kill(kills):
    chance = random.Random(0)
    in_save = 0
    for life in range(kills):
        before = folders(True)
        pid = born(ENDLESS)
        if life % 2:  # in the middle of a save that follows a whole one
            while not (folders(True) - before and folders(False)):
                time.sleep(0.001)
        else:
            time.sleep(chance.uniform(0.0, 0.4))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        in_save += bool(folders(False))
    last = max((int(name) for name in folders(True)), default=0)
    pid = born(last + 20)
    _, status = os.waitpid(pid, 0)
    print(json.dumps({"steps": last + 20, "in_save": in_save, "status": status}))


def term():
    pid = born(ENDLESS)
    refused = ""
    try:
        train(config(ENDLESS), WORKDIR)
    except RuntimeError as error:
        refused = str(error)
    os.kill(pid, signal.SIGTERM)
    _, status = os.waitpid(pid, 0)
    saved = max(int(name) for name in folders(True))
    result = train(config(saved + 3), WORKDIR)
    print(json.dumps({"refused": refused, "pid": pid, "status": status, "saved": saved, "step": result.step}))


if __name__ == "__main__":
    term() if sys.argv[1] == "term" else kill(10)
