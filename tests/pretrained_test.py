"""The weights that the package ships: they load, they are as good as their model cards say, and small."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxtok
from jaxtok import recipes
from jaxtok.data import recordings
from jaxtok.metrics import audio as metrics
from jaxtok.models.speech import SpeechModel

FOLDER = Path(jaxtok.__file__).parent / "pretrained"


def test_weights_are_small_and_every_one_has_a_card():
    sizes = [path.stat().st_size for path in FOLDER.glob("*/*.safetensors")]
    assert len(sizes) == len(recipes.shipped()) == 5 and sum(sizes) < 20 * 2**20
    for name in recipes.shipped():
        card = (FOLDER / name / "README.md").read_text()
        assert card.startswith(f"# {name}\n") and f'jaxtok.load("{name}")' in card


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tadicodec-mini", "wavtokenizer-mini", "sq-codec-mini"])
def test_codecs_are_as_good_as_their_cards_say(name):
    """The mel distance of four held-out English sentences, at most a fifth above the card's mean of all."""
    card = (FOLDER / name / "README.md").read_text()
    said = float(re.search(r"mel distance below 8 kHz, nats \| ([\d.]+)", card)[1])
    model = jaxtok.load(name)
    found, _ = recordings.find(["samples:speech"], split="test")
    chosen = [one for one in found if one.language == "en" and len(one.text.split()) >= 4][:4]
    waves = [jaxtok.data.audio.resample(*one.read(), model.rate) for one in chosen]
    if isinstance(model, SpeechModel):
        tokens = model.encode(waves, text=[one.text for one in chosen])
        again = model.decode(tokens, rng=jax.random.key(0), steps=16, guidance=1.5)
    else:
        again = model.decode(model.encode(waves))
    judge = jaxtok.load("griffin-lim").frontend
    distances = []
    for wave, other in zip(waves, again):
        assert len(wave) == len(other) and np.isfinite(other).all()
        mels = [judge(audio[None]) for audio in (wave, other)]
        distances.append(float(metrics.mel_distance(*mels, np.ones(mels[0].shape[:2], bool), frontend=judge)[0]))
    assert np.mean(distances) < 1.2 * said, distances
