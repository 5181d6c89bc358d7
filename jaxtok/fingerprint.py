"""Which tokenizer made some tokens: a number that changes with its configuration and with every weight."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import numpy as np


def fingerprint(model: Mapping[str, Any], variables: Mapping[str, Any]) -> str:
    """SHA-256, 64 hex digits, of a model's config and of its arrays in the order of their paths.

    Args:
      model: the config's section.
      variables: nested dicts of arrays: parameters, and codebooks that are none.
    """
    sha = hashlib.sha256(json.dumps(model, sort_keys=True, default=list).encode())
    for path, leaf in sorted(flax.traverse_util.flatten_dict(dict(variables), sep="/").items()):
        array: np.ndarray = np.asarray(leaf)
        sha.update(f"{path} {array.dtype} {array.shape}".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def of_run(run: str) -> str:
    """The fingerprint of the model in a directory (see ``jaxtok.load``), or "" of "".

    Raises:
      ValueError: when there is none, or it is no tokenizer.
    """
    if not run:
        return ""
    from jaxtok import recipes
    from jaxtok.model import load

    model = load(run)
    if not hasattr(model, "variables"):
        raise ValueError(f"model {run!r}: is a {type(model).__name__}, expected a tokenizer")
    return fingerprint(recipes.of_run(run)["model"], model.variables)
