"""The shapes of a config's batches, without its source: what a compiler needs to know before the data is there."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxtok.build import build


def abstract_batch(data: Mapping[str, Any], batch_size: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and dtype of every entry of the largest training batch, such as ``{"image": ((B, S, S, 3), float32)}``.

    Neither the source nor the vocabulary of the text is opened.

    Args:
      data: the config's section; ``examples`` must know its buckets, ``shapes(training)``, and give a row that is no
        example, ``blank(bucket)``.
      batch_size: rows, over all processes.

    Raises:
      ValueError: when the examples have no fixed shapes.
    """
    examples = build(data["examples"]) if "examples" in data else None
    if not hasattr(examples, "shapes") or not hasattr(examples, "blank"):
        raise ValueError("config key 'data.examples': expected examples with fixed shapes (shapes and blank)")
    row = examples.blank(examples.shapes(True)[-1]) | {"index": np.zeros((), np.int32)}
    return {name: ((batch_size, *value.shape), value.dtype) for name, value in row.items()}
