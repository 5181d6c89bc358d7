"""Tensors of an old PyTorch file (``torch.save`` before 1.6) without PyTorch, by an unpickler that admits nothing else.

The file is five pickles (magic number, version, machine, the object with storages by name, the storages' names in the
order of the file), then for each storage its length as int64 and its values.
"""

import collections
import io
import pickle
from typing import Any

import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES = {"FloatStorage": "<f4", "LongStorage": "<i8"}


def read(data: bytes, name: str) -> Any:
    """The object that the file holds, its tensors as arrays.

    Args:
      data: the whole file.
      name: how errors call it.

    Raises:
      ValueError: when it is no such file, is cut short, or holds anything but tensors in plain containers.
    """
    stream = io.BytesIO(data)
    try:
        if pickle.Unpickler(stream).load() != _MAGIC:
            raise ValueError("another magic number")
        for _ in range(2):
            _Tensors(stream).load()
        unpickler = _Tensors(stream)
        found = unpickler.load()
        for key in _Tensors(stream).load():
            size = int.from_bytes(stream.read(8), "little")
            values = unpickler.storages.get(key)
            if values is None:
                raise ValueError(f"a storage {key!r} that no tensor uses")
            raw = stream.read(size * values.itemsize)
            values[:] = np.frombuffer(raw, values.dtype)
    except (pickle.UnpicklingError, ValueError, EOFError, IndexError, TypeError) as error:
        raise ValueError(f"{name}: not readable as tensors in PyTorch's old format ({error})") from error
    return found


class _Tensors(pickle.Unpickler):
    """Knows ordered dictionaries, tensors and storages; a tensor is a view into its storage, which is filled later."""

    def __init__(self, stream: io.BytesIO):
        super().__init__(stream)
        self.storages: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name in _DTYPES:
            return np.dtype(_DTYPES[name])
        raise pickle.UnpicklingError(f"holds {module}.{name}, expected tensors alone")

    def persistent_load(self, pid: Any) -> np.ndarray:
        kind, dtype, key, _, size, view = pid
        if kind != "storage" or view is not None:
            raise pickle.UnpicklingError(f"holds a {kind!r} of an unknown form")
        return self.storages.setdefault(key, np.zeros(size, dtype))


def _tensor(storage: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> np.ndarray:
    last = offset + sum((size - 1) * step for size, step in zip(shape, strides))
    if min((offset, *shape, *strides), default=0) < 0 or (0 not in shape and last >= len(storage)):
        raise pickle.UnpicklingError(f"holds a tensor {shape} outside its storage")
    steps = [step * storage.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps)
