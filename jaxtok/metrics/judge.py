"""What all judges of recordings share: the pair they compare, what they cannot judge, and packages that may be absent.

Judges take float arrays ``[samples]`` with their rate. The packages of the extra ``eval`` are imported where they are
used; none of them is ever replaced by something else.
"""

import importlib
import importlib.util
import pathlib
from typing import Any

import numpy as np

from jaxtok.data import audio as sound

INSTALL = "pip install 'jaxtok[eval]'"


class Unjudged(ValueError):
    """A recording that a metric has no number for; its text says why in a few words."""


def package(name: str, metric: str, *, install: str = INSTALL) -> Any:
    """The module that a metric needs.

    Raises:
      ImportError: in one sentence with the way to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(_sentence(name, metric, install, str(error))) from error


def folder(name: str, metric: str, *, install: str = INSTALL) -> pathlib.Path:
    """The folder of an installed package, which is not imported: for the weights that lie in it.

    Raises:
      ImportError: in one sentence with the way to install it.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(_sentence(name, metric, install, "no such package"))
    return pathlib.Path(spec.submodule_search_locations[0])


def _sentence(name: str, metric: str, install: str, why: str) -> str:
    return f"{metric} needs the package {name} of the extra 'eval' ({why}); install it with: {install}"


def heard(audio: Any, rate: int, target: int) -> np.ndarray:
    """A recording float32 [samples] at ``target`` Hz (soxr, high quality), scaled down where its peak exceeds 1.

    Raises:
      ValueError: for another shape, values that are not finite, or a rate that is not positive.
      Unjudged: when it has no sample but zeros.
    """
    wave = sound.scale(sound.resample(sound.mono(audio, "audio"), rate, target))
    if not wave.any():
        raise Unjudged("it is silent")
    return wave


def pair(reference: np.ndarray, estimate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both cut to the shorter one's length; they are not shifted against each other."""
    length = min(len(reference), len(estimate))
    return reference[:length], estimate[:length]
