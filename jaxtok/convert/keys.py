"""A state dict that remembers which of its keys were used."""

from collections.abc import Callable, Mapping

import numpy as np


class StrictReader:
    """Takes arrays out of a state dict by name and shape, and at the end refuses what was not taken.

    Attributes:
      ignore: ``ignore(name)`` is True for keys that carry no weights (buffers that are recomputed).
    """

    def __init__(self, state_dict: Mapping[str, np.ndarray], ignore: Callable[[str], bool] = lambda name: False):
        self._left = {name: value for name, value in state_dict.items() if not ignore(name)}

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The array called ``name``.

        Raises:
          ValueError: when it is missing or has another shape.
        """
        if name not in self._left:
            raise ValueError(f"weights: key {name!r} with shape {shape} is missing")
        value = self._left.pop(name)
        if value.shape != shape:
            raise ValueError(f"weights: key {name!r} has shape {value.shape}, expected {shape}")
        return value

    def linear(self, name: str, inputs: int, outputs: int, *, bias: bool = True) -> dict[str, np.ndarray]:
        """A PyTorch Linear [out, in] as a Dense's ``kernel`` [in, out] and ``bias``."""
        params = {"kernel": self.take(f"{name}.weight", (outputs, inputs)).T}
        return params | ({"bias": self.take(f"{name}.bias", (outputs,))} if bias else {})

    def finish(self) -> None:
        """Refuses keys that were never taken.

        Raises:
          ValueError: naming up to five of them.
        """
        if self._left:
            names = sorted(self._left)
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise ValueError(f"weights: unknown keys {', '.join(map(repr, names[:5]))}{more}")
