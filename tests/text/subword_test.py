import json
import sys

import pytest

from jaxtok.text.subword import Subword

VOCABULARY = {"<pad>": 0, "[UNK]": 1, "good": 2, "morning": 3, "<s>": 4}


@pytest.fixture
def path(tmp_path):
    """A word-level tokenizer.json that would add <s> if special ids were asked for."""
    special = {"id": "A", "type_id": 0}
    spec = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "decoder": None,
        "added_tokens": [
            {"id": number, "content": word, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True}
            for word, number in (("<pad>", 0), ("<s>", 4))
        ],
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing", "pair": [{"Sequence": special}, {"Sequence": special}],
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": special}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [4], "tokens": ["<s>"]}},
        },
        "model": {"type": "WordLevel", "vocab": VOCABULARY, "unk_token": "[UNK]"},
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    return tmp_path / "tokenizer.json"


def test_a_tokenizer_json(path):
    pytest.importorskip("tokenizers.models")
    for where in (path, path.parent):
        text = Subword(str(where))
        assert text.encode("good morning good").tolist() == [2, 3, 2] and text.vocabulary_size == 5
        assert text.decode([2, 3, 0, 0]) == "good morning"
    assert Subword(str(path)).length_for(25) == 10 and Subword(str(path)).length_for(0) == 0


def test_a_damaged_file(tmp_path):
    pytest.importorskip("tokenizers.models")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"is not a tokenizer\.json"):
        Subword(str(tmp_path)).encode("x")


@pytest.mark.parametrize(("name", "package"), [("tokenizer.json", "tokenizers"), ("x.model", "sentencepiece")])
def test_a_missing_package_is_named(tmp_path, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=f"needs the package {package}, which is not installed"):
        Subword(str(tmp_path / name)).encode("x")


def test_a_missing_file(tmp_path):
    with pytest.raises(ValueError, match="no such file, expected a tokenizer"):
        Subword(str(tmp_path / "none.json")).encode("x")
    with pytest.raises(ValueError, match="bytes_per_id 0"):
        Subword("x", bytes_per_id=0)
