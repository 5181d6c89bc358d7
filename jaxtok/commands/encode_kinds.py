"""What of a source becomes stored tokens, and how: its images as grids, its utterances as sequences.

Each kind says on what a set depends (``plan``) and makes the records of some positions;
:mod:`jaxtok.commands.encode_dataset` writes them.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from jaxtok.build import build
from jaxtok.data import sequence_records, sources, token_records
from jaxtok.models.image import ImageModel
from jaxtok.models.speech import SpeechModel

BATCH = 32


@dataclasses.dataclass(frozen=True)
class Images:
    """Images as their tokenizer's own evaluation reads them: the middle square, resized; perhaps mirrored too."""

    model: ImageModel
    examples: Any
    source: sources.Source
    flip: bool

    index = token_records.Index
    noun = "images"

    @property
    def plan(self) -> dict[str, Any]:
        """On what the tokens depend beside source and tokenizer."""
        return {"flip": self.flip, "size": self.examples.size, "filter": self.examples.filter}

    def records(self, positions: np.ndarray) -> Iterator[token_records.TokenGrid]:
        """The tokens of images, in order."""
        index = self.source.index
        for first in range(0, len(positions), BATCH):
            part = positions[first : first + BATCH]
            images = np.stack([self.examples.picture(self.source, int(at))[0] for at in part])
            both = [images, images[:, :, ::-1]] if self.flip else [images]
            tokens = self.model.encode(np.concatenate(both))
            found = np.asarray(tokens.latents if tokens.codes is None else tokens.codes)
            grids = np.stack(np.split(found, len(both)), axis=1)  # [B, 1 or 2, h, w, C]
            for at, grid in zip(part, grids):
                row, captions = index.row(int(at)), self.source.record(int(at)).captions
                yield token_records.TokenGrid(grid, row.file, row.group, row.style, row.item, captions, row.split)


@dataclasses.dataclass(frozen=True)
class Speech:
    """Utterances one by one, as their tokenizer's own evaluation reads them."""

    model: SpeechModel
    examples: Any
    source: sources.Source

    index = sequence_records.Index
    noun = "utterances"

    @property
    def plan(self) -> dict[str, Any]:
        """On what the tokens depend beside source and tokenizer."""
        unit = self.model.factor * self.model.frontend.hop
        return {"rate": self.model.rate, "unit": unit, "peak": self.examples.peak}

    def records(self, positions: np.ndarray) -> Iterator[sequence_records.TokenSequence]:
        """The tokens of utterances, in order."""
        for first in range(0, len(positions), BATCH):
            part = positions[first : first + BATCH]
            waves = [self.examples.utterance(self.source, int(at))[0] for at in part]
            tokens = self.model.encode(waves, rate=self.examples.rate)
            for at, codes, mask in zip(part, np.asarray(tokens.codes), np.asarray(tokens.mask)):
                row, record = self.source.index.row(int(at)), self.source.record(int(at))
                yield sequence_records.TokenSequence(
                    codes[mask], record.text, row.file, row.language, row.speaker,
                    int(mask.sum()) / self.model.token_rate, row.split,
                )  # fmt: skip


def open_kind(
    name: epath.PathLike, config: Mapping[str, Any], model: Any, source: str, *, flip: bool, size: int
) -> Images | Speech:
    """The kind of a tokenizer.

    Args:
      name: its directory, for errors.
      config: of its run.
      model: itself.
      source: the string of a data source.
      flip: images: the mirrored ones too.
      size: images: in pixels; 0 takes the tokenizer's.

    Raises:
      ValueError: for a model or source of something else, or an option that its kind does not take.
    """
    where = f"model {os.fspath(name)!r}"
    if not isinstance(model, (ImageModel, SpeechModel)):
        raise ValueError(f"{where}: sets of tokens are made of images or speech, found a {type(model).__name__}")
    speech = isinstance(model, SpeechModel)
    examples, wanted = build(config["data"]["examples"]), "utterances" if speech else "images"
    if getattr(examples, "kind", "") != wanted:
        raise ValueError(f"{where}: expected a tokenizer trained on {wanted}, found another")
    opened = sources.open_source(source)
    if opened.index.kind != wanted:
        raise ValueError(f"data source {source!r}: holds {opened.index.kind}, expected {wanted} for this tokenizer")
    if isinstance(model, SpeechModel):
        if flip or size:
            raise ValueError(f"{'flip' if flip else 'size'}: given for a tokenizer of speech, which takes none")
        return Speech(model, dataclasses.replace(examples, cache=0), opened)
    examples = dataclasses.replace(
        examples, size=size or examples.size, label="", language="", crop=(), flip=False, cache=0
    )
    if examples.size % model.factor:
        raise ValueError(f"size {examples.size}: expected a multiple of the tokenizer's {model.factor} pixels a token")
    return Images(model, examples, opened, flip)
