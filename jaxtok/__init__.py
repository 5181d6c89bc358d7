"""jaxtok: tokenizers with diffusion decoders, and the generators that live on their tokens, in JAX.

Three calls cover most uses::

    model = jaxtok.load("runs/first")                     # a run's directory, or the name of shipped weights
    tokens = model.encode(audio, rate=16000)              # tokens.codes int32, tokens.latents, tokens.mask
    audio = model.decode(tokens, text="good morning", rng=jax.random.key(0), steps=32, guidance=2.0)

Single parts import without the rest: ``from jaxtok.quantizers.bsq import BSQ``.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxtok.build import build as build

__version__ = "0.1.0"

if TYPE_CHECKING:
    from jaxtok.model import load as load
    from jaxtok.recipes import get_config as get_config

_MODULES = (
    "convert", "data", "decode", "diffusion", "losses", "metrics", "nn", "papers", "quantizers",
    "signal", "tasks", "text", "tokenizers", "train",
)  # fmt: skip
_SYMBOLS = {"get_config": "jaxtok.recipes", "load": "jaxtok.model"}

__all__ = ["__version__", "build", *_MODULES, *_SYMBOLS]


def __getattr__(name: str) -> Any:
    """Imports namespaces and the three calls on first use, so that ``import jaxtok`` stays cheap."""
    if name in _SYMBOLS:
        value = getattr(importlib.import_module(_SYMBOLS[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"jaxtok.{name}")
    else:
        raise AttributeError(f"module 'jaxtok' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
