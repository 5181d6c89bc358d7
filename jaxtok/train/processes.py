"""Agreement between the processes of one run; with a single process everything here is a plain call."""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxtok.train.errors import CheckpointError, LockedError, TrainingError

_KINDS: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (ValueError, OSError, TrainingError, CheckpointError, LockedError)
}


def is_first() -> bool:
    """True on the one process that writes."""
    return jax.process_index() == 0


def first(fn: Callable[[], Any]) -> Any:
    """Runs ``fn`` on process 0 alone and gives its JSON-able result, or its error, to all.

    What one process finds (a lock, a damaged file, another config) must stop all of them in the same place: a
    process that went on alone would wait for the others for ever.
    """
    if jax.process_count() == 1:
        return fn()
    answer: dict[str, Any] = {}
    if is_first():
        try:
            answer = {"value": fn()}
        except (ValueError, OSError, TrainingError) as error:
            kind = next(name for name, cls in reversed(_KINDS.items()) if isinstance(error, cls))
            answer = {"kind": kind, "message": str(error)}
    answer = json.loads(_broadcast(json.dumps(answer).encode()).decode())
    if "kind" in answer:
        raise _KINDS[answer["kind"]](answer["message"])
    return answer["value"]


def everyone(value: Any) -> list[Any]:
    """The JSON-able values of all processes, in order, on every process."""
    if jax.process_count() == 1:
        return [value]
    from jax.experimental import multihost_utils

    text = json.dumps(value, sort_keys=True).encode()
    sizes = np.asarray(multihost_utils.process_allgather(np.int32(len(text)))).ravel()
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(text)] = np.frombuffer(text, np.uint8)
    gathered = np.asarray(multihost_utils.process_allgather(padded))
    return [json.loads(bytes(row[:size]).decode()) for row, size in zip(gathered, sizes)]


def whole(tree: Any) -> Any:
    """The arrays of a tree as numpy arrays, complete on every process, however they lie on the mesh.

    Every process must call it, with the same tree.
    """
    if jax.process_count() == 1:
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)


def barrier(name: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def _broadcast(text: bytes) -> bytes:
    from jax.experimental import multihost_utils

    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.zeros(size, np.uint8)
    if is_first():
        padded[:] = np.frombuffer(text, np.uint8)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded)))
