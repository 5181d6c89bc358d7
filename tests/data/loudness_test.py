"""Codes without a tokenizer: loudness in steps of decibels."""

import numpy as np
import pytest
import soundfile

from jaxtok.data import pipeline
from jaxtok.data.loudness import Loudness


def test_codes_are_loudness_in_equal_steps(tmp_path):
    wave = np.concatenate([np.full(3840, level, np.float32) for level in (1.0, 0.1, 0.01, 0.0)])
    soundfile.write(tmp_path / "a.wav", wave, 24000, subtype="FLOAT")
    (tmp_path / "all.tsv").write_text("file\ttext\tsplit\na.wav\thello\ttrain\n")
    examples = dict(target="jaxtok.data.loudness:Loudness", seconds=(0.8, 0.8), buckets=((0.8, 8),), levels=4)
    config = {"source": f"folder:{tmp_path}", "examples": examples, "prefetch": 0}
    batch = next(pipeline.training(config, batch_size=1, seed=0))
    assert set(batch) == {"codes", "codes_mask", "text_ids", "text_mask", "index"}
    assert batch["codes"][0, :, 0].tolist() == [3, 2, 1, 0, 0] and batch["codes"].dtype == np.int32
    assert batch["codes_mask"].tolist() == [[True] * 4 + [False]]
    with pytest.raises(ValueError, match="levels 1: expected at least 2"):
        Loudness(levels=1)
