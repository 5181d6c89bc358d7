"""Subword tokenizers in a file that the user names: ``tokenizer.json`` (tokenizers) or ``*.model`` (sentencepiece).

Both packages are optional and imported only here, when a tokenizer is first used.
"""

import dataclasses
import functools
import importlib
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Subword:
    """Text to the ids of a vocabulary file and back; no special ids are added.

    Attributes:
      path: ``tokenizer.json`` or a folder with one, or a SentencePiece ``.model`` file.
      pad_id: the id that fills up a row.
      bytes_per_id: what planning takes for the length of a text whose bytes alone are known; low is safe.
    """

    path: str
    pad_id: int = 0
    bytes_per_id: float = 2.5

    def __post_init__(self):
        if self.bytes_per_id <= 0:
            raise ValueError(f"bytes_per_id {self.bytes_per_id}: expected a positive number")

    @property
    def vocabulary_size(self) -> int:
        """The number of ids, added ones included."""
        return _load(self.path).size

    def encode(self, text: str) -> np.ndarray:
        """Text to int32 [N]."""
        return np.asarray(_load(self.path).encode(text), np.int32)

    def decode(self, ids: np.ndarray) -> str:
        """Ids to text; padding is left out."""
        flat = [int(i) for i in np.asarray(ids).reshape(-1) if i != self.pad_id]
        return _load(self.path).decode(flat)

    def length_for(self, utf8_bytes: int) -> int:
        """An estimate of how many ids a text of that many UTF-8 bytes has."""
        return max(1, round(utf8_bytes / self.bytes_per_id)) if utf8_bytes else 0


@dataclasses.dataclass(frozen=True)
class _Loaded:
    size: int
    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]


@functools.lru_cache(maxsize=8)
def _load(path: str) -> _Loaded:
    file = pathlib.Path(path)
    if file.is_dir():
        file = file / "tokenizer.json"
    if not file.is_file():
        raise ValueError(f"text tokenizer {path!r}: no such file, expected a tokenizer.json or a SentencePiece .model")
    if file.suffix == ".model":
        module = _package("sentencepiece", path)
        try:
            model: Any = module.SentencePieceProcessor(model_file=str(file))
        except (RuntimeError, OSError) as error:
            raise ValueError(f"text tokenizer {path!r}: is not a SentencePiece model ({error})") from error
        return _Loaded(model.vocab_size(), model.encode, model.decode)
    module = _package("tokenizers", path)
    try:
        tokenizer: Any = module.Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises bare Exception
        raise ValueError(f"text tokenizer {path!r}: is not a tokenizer.json ({error})") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return _Loaded(
        tokenizer.get_vocab_size(with_added_tokens=True),
        lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
        lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
    )


def _package(name: str, path: str) -> Any:
    missing = f"text tokenizer {path!r}: needs the package {name}, which is not installed (pip install {name})"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(missing) from error
    if getattr(module, "__file__", None) is None:  # a folder of that name on the path, not the package
        raise ValueError(missing)
    return module
