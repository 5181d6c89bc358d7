"""One writer per workdir.

A local workdir is locked by the operating system, which lets go the moment the holder dies, however it dies. A bucket
has no locks: there the holder writes a heartbeat, and who comes second watches it for a while before it takes over.
"""

import errno
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from typing import Any

from etils import epath

from jaxtok.files import is_local
from jaxtok.train.errors import LockedError

NAME = "lock.json"
_held: set[str] = set()


class Lock:
    """Holds a workdir until ``release``; ``lost`` turns true when another process took it over."""

    def __init__(self, workdir: epath.PathLike, *, interval: float = 10.0, heartbeat: bool | None = None):
        """Takes the lock.

        Args:
          workdir: exists.
          interval: seconds between heartbeats; a heartbeat that stands still for three is a dead holder's.
          heartbeat: by heartbeat (True) or by the operating system (False); default by the kind of path.

        Raises:
          LockedError: when another process, or this one, holds it.
        """
        self.path, self.interval, self.lost = epath.Path(workdir) / NAME, interval, False
        self._key = str(self.path if not is_local(self.path) else self.path.resolve())
        self._file: Any = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._me: dict[str, Any] = {"id": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid(), "beat": 0}
        if self._key in _held:
            raise LockedError(f"{self.path.parent} is in use by another training run of this process")
        if heartbeat if heartbeat is not None else not is_local(self.path):
            self._take_by_heartbeat()
        else:
            self._take_by_system()
        _held.add(self._key)

    def release(self) -> None:
        """Lets go; calling it again does nothing."""
        _held.discard(self._key)
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            if not self.lost:
                self.path.unlink(missing_ok=True)
        if self._file is not None:
            self._file.close()
            self._file = None

    def _take_by_system(self) -> None:
        # Record locks, unlike flock, are not inherited by forked data workers, which may outlive the run.
        self._file = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115 (held until release)
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):  # a file system without locks
                self._file.close()
                self._file = None
                self._take_by_heartbeat()
                return
            self._file.seek(0)
            holder = _parse(self._file.read())
            self._file.close()
            raise LockedError(_refusal(self.path, holder)) from error
        self._file.truncate(0)
        self._file.write(json.dumps(self._me))
        self._file.flush()

    def _take_by_heartbeat(self) -> None:
        seen = self._read()
        if seen and not _dead_here(seen):
            for _ in range(6):  # half intervals: clocks of two machines may differ, so only a change is proof of life
                time.sleep(self.interval / 2)
                now = self._read()
                if now and now != seen:
                    raise LockedError(_refusal(self.path, now))
        self._write()
        time.sleep(self.interval / 10)  # of two that took over at once, the one that wrote last stays
        winner = self._read()
        if winner and winner.get("id") != self._me["id"]:
            raise LockedError(f"{self.path.parent} was taken by {_who(winner)} at the same moment")
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._stop.wait(self.interval):
            holder = self._read()
            if holder and holder.get("id") != self._me["id"]:
                self.lost = True
                return
            self._me["beat"] += 1
            self._write()

    def _read(self) -> dict[str, Any]:
        try:
            return _parse(self.path.read_text())
        except FileNotFoundError:
            return {}

    def _write(self) -> None:
        self.path.write_text(json.dumps(self._me))


def _parse(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:  # empty or half-written: a holder all the same, whose name is not known
        return {"id": ""} if text else {}
    return found if isinstance(found, dict) else {}


def _who(holder: dict[str, Any]) -> str:
    return f"process {holder.get('pid', '?')} on {holder.get('host', 'an unknown machine')}"


def _refusal(path: epath.Path, holder: dict[str, Any]) -> str:
    return f"{path.parent} is in use by {_who(holder)}: stop it, or take another workdir"


def _dead_here(holder: dict[str, Any]) -> bool:
    """Whether the holder ran on this machine and is gone."""
    if holder.get("host") != socket.gethostname() or not isinstance(holder.get("pid"), int):
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
