"""Tensors of PyTorch's old files, made here byte by byte; and what is refused."""

import collections
import pickle

import numpy as np
import pytest

from jaxtok import torch_file

MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
HEAD = MAGIC + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)


def file(state, values):
    """The bytes of ``{name: (storage key, size, offset, shape, strides)}`` and the values by key."""

    def text(s):
        return b"X" + len(s).to_bytes(4, "little") + s.encode()

    def number(n):
        return b"J" + n.to_bytes(4, "little", signed=True)

    def row(numbers):
        return b"(" + b"".join(map(number, numbers)) + b"t"

    body = b"\x80\x02}("
    for name, (key, size, offset, shape, strides) in state.items():
        pid = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(size) + b"NtQ"
        rest = number(offset) + row(shape) + row(strides) + b"\x89" + b"ccollections\nOrderedDict\n)R"
        body += text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + pid + rest + b"tR"
    body += b"u."
    out = HEAD + body + pickle.dumps(list(values), 2)
    for array in values.values():
        out += len(array).to_bytes(8, "little") + np.asarray(array, "<f4").tobytes()
    return out


STATE = {"w": ("1", 6, 0, (2, 3), (3, 1)), "t": ("1", 6, 0, (3, 2), (1, 3)), "b": ("2", 3, 1, (2,), (1,))}
VALUES = {"1": np.arange(6.0), "2": np.asarray([7.0, 8.0, 9.0])}


def test_tensors_are_views_of_their_storages():
    found = torch_file.read(file(STATE, VALUES), "old.pt")
    np.testing.assert_array_equal(found["w"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(found["t"], found["w"].T)
    np.testing.assert_array_equal(found["b"], [8, 9])
    assert found["w"].dtype == np.float32


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not readable"),
        (b"PK\x03\x04 a newer file", "not readable"),
        (pickle.dumps(5, 2), "another magic number"),
        (file(STATE, VALUES)[:-4], "not readable"),
        (HEAD + pickle.dumps(collections.Counter, 2), "holds collections.Counter, expected tensors alone"),
        (HEAD + b"cos\nsystem\n(X\x02\x00\x00\x00lstR.", "holds os.system, expected tensors alone|posix.system"),
        (file({"w": ("1", 6, 1, (2, 3), (3, 1))}, VALUES | {}), "outside its storage"),
        (file({"w": ("1", 6, 0, (2, 3), (-3, 1))}, VALUES), "outside its storage"),
    ],
)
def test_anything_else_is_refused_in_one_sentence(data, said):
    with pytest.raises(ValueError, match=said) as error:
        torch_file.read(data, "old.pt")
    assert str(error.value).startswith("old.pt: ")
