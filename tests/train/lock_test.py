"""The lock by heartbeat, as it is used in buckets."""

import json
import socket
import subprocess
import sys

import pytest

from jaxtok.train import lock
from jaxtok.train.errors import LockedError
from jaxtok.train.lock import NAME, Lock


def test_a_living_holder_is_respected_and_a_dead_one_is_not(tmp_path):
    first = Lock(tmp_path, interval=0.02, heartbeat=True)
    with pytest.raises(LockedError, match="of this process"):
        Lock(tmp_path, interval=0.02, heartbeat=True)

    # As another process sees it: the file alone.
    lock._held.clear()
    with pytest.raises(LockedError, match=r"in use by process \d+ on .*: stop it, or take another workdir"):
        Lock(tmp_path, interval=0.04, heartbeat=True)
    first._stop.set()  # it dies: no heartbeat any more, the file stays
    first._thread.join()
    second = Lock(tmp_path, interval=0.02, heartbeat=True)
    assert json.loads((tmp_path / NAME).read_text())["id"] == second._me["id"]
    second.release()
    assert not (tmp_path / NAME).exists()


def test_a_holder_learns_that_it_lost_the_workdir(tmp_path):
    held = Lock(tmp_path, interval=0.01, heartbeat=True)
    (tmp_path / NAME).write_text(json.dumps({"id": "another", "pid": 1, "host": "elsewhere"}))
    held._thread.join(timeout=10)
    if not held.lost:  # the write fell between its reading and its writing: it reads its own again, and goes on
        (tmp_path / NAME).write_text(json.dumps({"id": "another", "pid": 1, "host": "elsewhere"}))
        held._thread.join(timeout=10)
    assert held.lost
    held.release()
    assert json.loads((tmp_path / NAME).read_text())["id"] == "another"


def test_a_dead_process_of_this_machine_is_not_waited_for(tmp_path):
    gone = subprocess.Popen([sys.executable, "-S", "-c", ""])
    gone.wait()
    (tmp_path / NAME).write_text(json.dumps({"id": "gone", "pid": gone.pid, "host": socket.gethostname()}))
    Lock(tmp_path, interval=0.01, heartbeat=True).release()
    (tmp_path / NAME).write_text('{"id": "go')  # cut short, and nobody writes on
    Lock(tmp_path, interval=0.01, heartbeat=True).release()
