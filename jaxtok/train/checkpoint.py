"""Checkpoints: the only importer of Orbax.

One directory per step, ``checkpoints/00000200``, with the items ``params``, ``ema``, ``opt`` and ``state`` (each loads
alone), ``data.json`` (the data's position), ``meta.json`` (step, config, metrics, fingerprints) and, written last,
``manifest.json`` with the digest of every file.
"""

import dataclasses
import json
import logging
import os
import re
import threading
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

from jaxtok.train import manifest, processes
from jaxtok.train.errors import CheckpointError
from jaxtok.train.state import TrainState, Tree, flatten, unflatten

ITEMS = ("params", "ema", "opt", "state")
log = logging.getLogger("jaxtok")


def items_of(state: TrainState) -> dict[str, Tree]:
    """The state's items as nested dicts of arrays; empty ones are left out.

    Optimizer states become plain dicts too: what is on disk does not depend on the classes of a library.
    """
    leaves = {name: flatten(getattr(state, name)) for name in ITEMS}
    return {name: unflatten(found) for name, found in leaves.items() if found}


class Checkpoints:
    """Writes checkpoints of one run in the background and keeps the wanted ones.

    All processes call ``save`` and ``wait`` at the same steps. A checkpoint exists from the moment its manifest does;
    until then, and if anything fails, the earlier ones stay untouched.
    """

    def __init__(self, workdir: epath.PathLike, *, keep_last: int = 2, keep_best: str = ""):
        self.workdir, self.keep_last, self.keep_best = epath.Path(workdir), keep_last, keep_best
        self._thread: threading.Thread | None = None
        self.failure: CheckpointError | None = None

    def save(
        self, step: int, state: TrainState, *, data: Any, meta: Mapping[str, Any], metrics: Mapping[str, float]
    ) -> None:
        """Copies the state to the host and writes it in the background; waits for the previous save first.

        Args:
          step: steps done.
          state: finite; the caller has checked ``bad``.
          data: JSON-able position of the data, the same on all processes.
          meta: JSON-able; config and fingerprints.
          metrics: evaluation results, by which the best checkpoint is kept.

        Raises:
          CheckpointError: when this or the previous save failed, in one sentence.
        """
        self.wait()
        items, directory = items_of(state), manifest.at(self.workdir, step)
        described = {name: {path: _kind(leaf) for path, leaf in flatten(item).items()} for name, item in items.items()}
        body = {"step": step, "metrics": dict(metrics), "items": described}
        files = {"data.json": json.dumps(data), "meta.json": json.dumps(dict(meta) | {"step": step}, indent=1)}
        try:
            manifest.folder(self.workdir).mkdir(parents=True, exist_ok=True)
            response = ocp.save_checkpointables_async(directory, items, overwrite=True)
        except Exception as error:
            raise self._failed(step, error) from error
        self._thread = threading.Thread(target=self._finish, args=(step, response, files, body), daemon=True)
        self._thread.start()

    def _finish(self, step: int, response: Any, files: Mapping[str, str], body: Mapping[str, Any]) -> None:
        try:
            response.result()
            if processes.is_first():
                directory = manifest.at(self.workdir, step)
                for name, text in files.items():
                    (directory / name).write_text(text)
                manifest.write(directory, body)
                self._prune(step)
        except Exception as error:  # handed to the main thread, which raises it
            self.failure = self._failed(step, error)

    def wait(self) -> None:
        """Blocks until nothing is being written; all processes learn of the failure of any.

        Raises:
          CheckpointError: when a save failed.
        """
        self.join()
        for message in processes.everyone(str(self.failure or "")):
            if message:
                raise CheckpointError(message)

    def join(self) -> None:
        """Blocks until this process writes nothing; a failure stays for ``wait`` to raise."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _failed(self, step: int, error: Exception) -> CheckpointError:
        found = [other for other in manifest.steps(self.workdir) if other != step]
        safe = f"the last whole one is step {max(found)}" if found else "there is no earlier one"
        return CheckpointError(
            f"the checkpoint of step {step} could not be written to {manifest.folder(self.workdir)} "
            f"({_reason(error)}): {safe}"
        )

    def _prune(self, step: int) -> None:
        """Keeps the last ones and the best one; what lies beyond ``step`` is a damaged past."""
        found = manifest.steps(self.workdir)
        keep = set([other for other in found if other <= step][-self.keep_last :])
        if self.keep_best and (winner := best(self.workdir, self.keep_best, until=step)) >= 0:
            keep.add(winner)
        for other in found:
            if other not in keep:
                manifest.remove(manifest.at(self.workdir, other))


def _reason(error: Exception) -> str:
    """The system's words for an error, where they can be found in it; else its first line."""
    number = error.errno if isinstance(error, OSError) else None
    if found := re.search(r"os_error_code='(\d+)'", str(error)):
        number = int(found[1])
    return os.strerror(number) if number else (str(error).strip() or type(error).__name__).splitlines()[0]


def best(workdir: epath.PathLike, metric: str, *, until: int | None = None) -> int:
    """The step whose evaluation has the lowest ``metric`` (of equals the newest), -1 when none has it."""
    scores = {}
    for step in manifest.steps(workdir):
        try:
            score = manifest.read(manifest.at(workdir, step))["metrics"].get(metric)
        except ValueError:  # damaged: restoring it would say so
            continue
        if score is not None and np.isfinite(score) and (until is None or step <= until):
            scores[step] = score
    return min(scores, key=lambda step: (scores[step], -step), default=-1)


def _kind(leaf: Any) -> list[Any]:
    return [list(leaf.shape), str(leaf.dtype)]


def newest(workdir: epath.PathLike, step: int = -1) -> int:
    """The newest whole step (or ``step`` itself, where it is not -1); -1 when there is no checkpoint at all.

    A damaged one is named in a warning, and the one before it is used.

    Raises:
      CheckpointError: when no whole one is left, or the wanted step is missing or damaged.
    """
    found = manifest.steps(workdir)
    if step >= 0:
        if step not in found:
            said = ", ".join(map(str, found)) or "none"
            raise CheckpointError(f"{manifest.folder(workdir)} has no checkpoint of step {step}; it has: {said}")
        found = [step]
    faults = []
    for candidate in reversed(found):
        fault = manifest.damage(manifest.at(workdir, candidate))
        if not fault:
            for text in faults:
                log.warning("checkpoint damaged: %s; going on from step %d", text, candidate)
            return candidate
        faults.append(fault)
    if faults:
        others = [other for other in manifest.steps(workdir) if other != step]
        offer = f"; other steps: {', '.join(map(str, others))}" if step >= 0 and others else ""
        raise CheckpointError(f"no whole checkpoint in {manifest.folder(workdir)}: {faults[0]}{offer}")
    return -1


def restore(workdir: epath.PathLike, step: int, like: TrainState) -> tuple[TrainState, Any, dict[str, Any]]:
    """Loads ``(state, data, meta)`` of a step that ``newest`` found whole.

    Args:
      workdir: the run's directory.
      step: which one.
      like: shapes, dtypes and shardings of the state, for any mesh.

    Raises:
      ValueError: when the checkpoint holds other arrays than ``like``; the first difference is named.
    """
    directory = manifest.at(workdir, step)
    wanted, saved = items_of(like), manifest.read(directory)["items"]
    _compare(directory, saved, {name: flatten(item) for name, item in wanted.items()})
    loaded = ocp.load_checkpointables(directory, wanted) if wanted else {}

    def rebuild(name):
        tree = getattr(like, name)
        leaves = flatten(loaded.get(name, {}))
        return jax.tree.unflatten(jax.tree.structure(tree), [leaves[path] for path in flatten(tree)])

    parts = {name: rebuild(name) for name in ITEMS}
    data, meta = (json.loads((directory / f"{name}.json").read_text()) for name in ("data", "meta"))
    return dataclasses.replace(like, **parts), data, meta


def _compare(directory: epath.Path, saved: Mapping[str, Mapping], wanted: Mapping[str, Mapping]) -> None:
    """Refuses a checkpoint of other arrays before Orbax does, which would bury the reason in tracebacks."""
    for name in ITEMS:
        here, there = wanted.get(name, {}), saved.get(name, {})
        for path in here:
            if path not in there:
                raise ValueError(f"checkpoint {directory} has no {name}/{path}, which this config needs")
            if _kind(here[path]) != there[path]:
                (found, is_now), (expected, wants) = there[path], _kind(here[path])
                raise ValueError(
                    f"checkpoint {directory}: {name}/{path} is {is_now}{found}, this config needs {wants}{expected}"
                )
        for path in there:
            if path not in here:
                raise ValueError(f"checkpoint {directory} has {name}/{path}, which this config does not have")


def load_item(workdir: epath.PathLike, name: str, step: int = -1) -> dict[str, Any]:
    """One item of a run's checkpoint as nested dicts of arrays on the default device; ``{}`` when it was empty.

    Raises:
      CheckpointError: when there is no whole checkpoint.
    """
    directory = manifest.at(workdir, _found(workdir, step))
    kinds = manifest.read(directory)["items"].get(name)
    if not kinds:
        return {}
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = {path: jax.ShapeDtypeStruct(shape, dtype, sharding=here) for path, (shape, dtype) in kinds.items()}
    return ocp.load_checkpointables(directory, {name: unflatten(like)})[name]


def _found(workdir: epath.PathLike, step: int) -> int:
    """The newest whole step, or ``step``; CheckpointError when there is none."""
    found = newest(workdir, step)
    if found < 0:
        raise CheckpointError(f"{workdir} holds no checkpoint")
    return found


def load_marks(workdir: epath.PathLike, step: int = -1) -> dict[str, int]:
    """The fingerprints of the arrays that a run did not change, by their paths; see ``jaxtok.train.state``.

    Raises:
      CheckpointError: when there is no whole checkpoint.
    """
    return json.loads((manifest.at(workdir, _found(workdir, step)) / "meta.json").read_text())["frozen"]


def load_params(workdir: epath.PathLike, step: int = -1, *, ema: bool = True) -> dict[str, Any]:
    """A run's parameters: their running mean where the run kept one (and ``ema`` holds), else the last values.

    Raises:
      CheckpointError: when there is no whole checkpoint.
    """
    return (load_item(workdir, "ema", step) if ema else {}) or load_item(workdir, "params", step)
