"""How tasks watch the codebooks that they train: hit counts in their state, numbers for logs, and warnings."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtok.quantizers import usage

WATCHED = 1 << 22  # codes of all codebooks together, at most, whose hits are counted in training


def start(variables: Mapping[str, Any], quantizer: Any) -> dict[str, Any]:
    """The state before the first step: the collection "codebook" where there is one, ``hits`` where they are counted.

    Args:
      variables: what the model's ``init`` gave.
      quantizer: the model's.
    """
    state = {"codebook": variables["codebook"]} if "codebook" in variables else {}
    if watched(quantizer):
        state["hits"] = jnp.zeros((quantizer.num_codebooks, quantizer.codebook_size), jnp.float32)
    return state


def watched(quantizer: Any) -> bool:
    """Whether there are codes, and not too many to count."""
    return 0 < quantizer.num_codebooks * quantizer.codebook_size <= WATCHED


def count(
    state: Mapping[str, Any], codes: jax.Array | None, *, decay: float
) -> tuple[dict[str, Any], dict[str, jax.Array]]:
    """The state with a batch's codes int32 [..., Q] counted, and what :func:`jaxtok.quantizers.usage.watch` says."""
    state, numbers = dict(state), {}
    if "hits" in state and codes is not None:
        state["hits"] = usage.decayed_hits(state["hits"], codes, decay=decay)
        found = usage.watch(state["hits"], decay=decay)
        for q, book in enumerate(_books(len(state["hits"]))):
            numbers |= {f"{name}{book}": value[q] for name, value in found.items()}
    return state, numbers


def warnings(
    quantizer: Any, step: int, metrics: Mapping[str, float], *, player: str, floor: float, patience: int
) -> dict[str, str]:
    """What the person who watches training should know, one sentence per codebook in trouble.

    Args:
      quantizer: the model's.
      step: steps done.
      metrics: the step's, as they are logged.
      player: whose metrics have the numbers of :func:`count`.
      floor: a warning is given when fewer codes are in use than this share of what uniform codes would show ...
      patience: ... later than so many steps.
    """
    found: dict[str, str] = {}
    if step <= patience or not watched(quantizer):
        return found
    for book in _books(quantizer.num_codebooks):
        evenness, used = metrics[f"{player}/evenness{book}"], metrics[f"{player}/usage{book}"]
        if evenness < floor:
            size, name = quantizer.codebook_size, f"codebook{book.replace('_', ' ')}"
            found[name] = (
                f"{name} is collapsing at step {step}: {used * size:,.0f} of {size:,} codes are in use "
                f"({used:.1%}), where uniform codes would show {used / max(evenness, 1e-9):.1%}"
            )
    return found


def _books(count: int) -> list[str]:
    """The endings of the codebooks' names: none for a single one."""
    return [f"_{q}" for q in range(count)] if count > 1 else [""]
