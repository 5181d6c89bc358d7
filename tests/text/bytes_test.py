import numpy as np
import pytest

from jaxtok.text.bytes import Bytes


@pytest.mark.parametrize("text", ["", "Hello.", "Добрый день", "¿Qué?", "日本 🙂"])
def test_round_trip(text):
    ids = Bytes().encode(text)
    assert ids.dtype == np.int32 and len(ids) == len(text.encode()) == Bytes().length_for(len(text.encode()))
    assert Bytes().decode(ids) == text
    assert ids.size == 0 or (ids.min() >= 3 and ids.max() < Bytes().vocabulary_size == 259)


def test_numbering_normalisation_and_padding():
    assert Bytes().encode("aé").tolist() == [100, 198, 172]
    assert Bytes().encode("e\u0301").tolist() == Bytes().encode("é").tolist()
    assert Bytes().decode(np.array([0, 100, 1, 0])) == "a"
    assert Bytes().decode(np.array([198])) == "\ufffd"


@pytest.mark.parametrize("ids", [[259], [-1]])
def test_ids_outside_are_refused(ids):
    with pytest.raises(ValueError, match="expected 0 to 258"):
        Bytes().decode(np.array(ids))
