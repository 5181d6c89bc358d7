"""One-dimensional convolutions of a state dict, with their weight normalisation folded into plain kernels.

Source: Salimans and Kingma, "Weight Normalization" (arXiv 1602.07868): w = g v / |v|, in PyTorch with a norm for each
index of the first axis.
"""

import numpy as np

from jaxtok.convert.keys import StrictReader

# Ends of the names of g and v: torch.nn.utils.weight_norm, and torch.nn.utils.parametrizations.weight_norm.
FORMS = (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1"))


def fold(g: np.ndarray, v: np.ndarray) -> np.ndarray:
    """g v / |v| with the Euclidean norm over all axes of v but the first; g is [n, 1, ..., 1]."""
    norm = np.sqrt(np.square(v.astype(np.float64)).sum(tuple(range(1, v.ndim)), keepdims=True))
    return (g * (v / norm)).astype(np.float32)


class ConvReader(StrictReader):
    """A :class:`StrictReader` of convolutions over time, which may be normalised in either form or plain."""

    def weight(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """``name.weight``, or what its g and v give.

        Raises:
          ValueError: when a key is missing or has another shape.
        """
        for g, v in FORMS:
            if f"{name}.{g}" in self._left or f"{name}.{v}" in self._left:
                sizes = (shape[0],) + (1,) * (len(shape) - 1)
                return fold(self.take(f"{name}.{g}", sizes), self.take(f"{name}.{v}", shape))
        return self.take(f"{name}.weight", shape)

    def conv(self, name: str, inputs: int, outputs: int, size: int, *, bias: bool = True) -> dict[str, np.ndarray]:
        """A PyTorch Conv1d [out, in, size] as ``kernel`` [size, in, out] and ``bias``."""
        params = {"kernel": self.weight(name, (outputs, inputs, size)).transpose(2, 1, 0)}
        return params | ({"bias": self.take(f"{name}.bias", (outputs,))} if bias else {})

    def transposed(self, name: str, inputs: int, outputs: int, size: int) -> dict[str, np.ndarray]:
        """A PyTorch ConvTranspose1d [in, out, size] as ``kernel`` [size, in, out] and ``bias``."""
        kernel = self.weight(name, (inputs, outputs, size)).transpose(2, 0, 1)
        return {"kernel": kernel, "bias": self.take(f"{name}.bias", (outputs,))}
