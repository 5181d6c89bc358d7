"""Which examples form the batch of a training step: a pure function of the step, planned without decoding."""

import dataclasses
import threading
from collections.abc import Hashable
from typing import Any, Protocol

import numpy as np

_ENDLESS = 2**50


class Plan(Protocol):
    """An example before decoding, as a kind of data describes it."""

    @property
    def records(self) -> tuple[int, ...]:
        """Positions in the source."""
        ...

    @property
    def length(self) -> int:
        """What examples of one batch should have in common, so that little is padded."""
        ...


class Bucket(Hashable, Protocol):
    """The static shape of a batch; buckets are ordered by ``length``."""

    @property
    def length(self) -> int:
        """What a bucket holds."""
        ...


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a global batch, before decoding."""

    number: int  # of the example, counted over epochs
    plan: Plan
    bucket: Bucket


class Schedule:
    """Which examples form the batch of a step: a pure function of the step."""

    def __init__(self, planner: Any, batch_size: int, window: int, seed: int):
        self._planner, self._batch, self._window, self._seed = planner, batch_size, window, seed
        self._cached: dict[int, list[list[Row]]] = {}
        self._epochs: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def step(self, step: int) -> list[Row]:
        """The global batch of a step."""
        window, place = divmod(step, self._window)
        with self._lock:
            if window not in self._cached:
                self._cached[window] = self._plan(window)
                for old in sorted(self._cached)[:-3]:
                    del self._cached[old]
            return self._cached[window][place]

    def _anchor(self, number: int) -> int:
        epoch, place = divmod(number, len(self._planner.anchors))
        if epoch not in self._epochs:
            rng = np.random.default_rng((self._seed, 0, epoch))
            self._epochs[epoch] = self._planner.anchors[rng.permutation(len(self._planner.anchors))]
            for old in sorted(self._epochs)[:-3]:
                del self._epochs[old]
        return int(self._epochs[epoch][place])

    def _plan(self, window: int) -> list[list[Row]]:
        size = self._batch * self._window
        rows = []
        for number in range(window * size, (window + 1) * size):
            plan = self._planner.plan(self._anchor(number), np.random.default_rng((self._seed, 1, number)))
            rows.append(Row(number, plan, self._planner.bucket([plan])))
        rows.sort(key=lambda row: (row.bucket.length, row.plan.length, row.number))
        batches = []
        for start in range(0, size, self._batch):
            batch = rows[start : start + self._batch]
            bucket = self._planner.bucket([row.plan for row in batch])
            batches.append([dataclasses.replace(row, bucket=bucket) for row in batch])
        order = np.random.default_rng((self._seed, 2, window)).permutation(len(batches))
        return [batches[place] for place in order]

    def __getstate__(self):
        return self.__dict__ | {"_cached": {}, "_epochs": {}, "_lock": None}

    def __setstate__(self, state):
        self.__dict__.update(state, _lock=threading.Lock())


class Rows:
    """The rows of one process from a step on: element j is row j % local of step start + j // local."""

    def __init__(self, schedule: Schedule, first: int, local: int, start: int):
        self._schedule, self._first, self._local, self._start = schedule, first, local, start

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, element: Any) -> Row:
        step, row = divmod(int(element), self._local)
        return self._schedule.step(self._start + step)[self._first + row]
