"""Files of tokens, as ``jaxtok encode`` writes them."""

from collections.abc import Sequence

import numpy as np
from etils import epath
from safetensors import SafetensorError
from safetensors.numpy import load


def read(path: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of a file that holds ``names`` and nothing else.

    Raises:
      ValueError: naming the file.
    """
    file = epath.Path(path)
    if not file.is_file():
        raise ValueError(f"{path}: no such file, expected tokens written by 'jaxtok encode'")
    try:
        arrays = load(file.read_bytes())
    except SafetensorError as error:
        raise ValueError(f"{path}: not a file of tokens written by 'jaxtok encode'") from error
    if set(arrays) != set(names):
        raise ValueError(f"{path}: holds {', '.join(sorted(arrays))}, expected {' and '.join(names)}")
    return arrays
