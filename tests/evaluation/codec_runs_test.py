"""Arms of a codec evaluation: another recording's tokens or text, vocoders, continuous tokens."""

import flax.struct
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtok
from jaxtok.data.recordings import Recording
from jaxtok.evaluation import codec_runs
from jaxtok.metrics.judge import Unjudged
from jaxtok.models.audio import AudioModel
from jaxtok.models.tokens import Tokens
from jaxtok.tasks import codec_report

RATE = 16000


@flax.struct.dataclass
class Reader:
    """A codec of speech whose audio is its latents, times the number of letters of its text."""

    rate: int = flax.struct.field(pytree_node=False, default=RATE)

    def encode(self, waves, text=None):
        counts = [len(wave) for wave in waves]
        latents = np.stack([np.pad(wave, (0, max(counts) - len(wave)))[:, None] for wave in waves])
        mask = np.arange(max(counts)) < np.asarray(counts)[:, None]
        return Tokens(
            jnp.asarray(mask), jnp.asarray(latents), jnp.asarray(mask), jnp.asarray(counts), ("a", "bb", "ccc")
        )

    def decode(self, tokens):
        rows = zip(np.asarray(tokens.latents), np.asarray(tokens.samples), tokens.text)
        return [len(text) * latents[:count, 0] for latents, count, text in rows]


@pytest.mark.parametrize(
    ("what", "sources", "letters"),
    [("text", (0, 1, 2), (2, 3, 1)), ("tokens", (1, 2, 0), (1, 2, 3)), ("both", (1, 2, 0), (2, 3, 1))],
)
def test_a_swapped_recording_is_said_by_the_next_ones(what, sources, letters):
    waves = [np.full(count, count, np.float32) for count in (4, 6, 5)]
    recordings = [Recording(str(i), lambda: None, text="x") for i in range(3)]
    swapped = codec_runs.Swapped(Reader(), what)
    counts = {}
    found = codec_runs.through(swapped, [(w, RATE) for w in waves], recordings, np.arange(3), {}, counts)
    for wave, source, times in zip(found, sources, letters):
        np.testing.assert_allclose(wave, waves[source] * times)
    assert counts == {} and codec_runs.costs(swapped, counts) == {}


def test_a_recording_alone_has_no_other():
    swapped = codec_runs.Swapped(Reader(), "tokens")
    (found,) = codec_runs.through(swapped, [(np.ones(4), RATE)], [Recording("a", lambda: None)], np.arange(1), {}, {})
    assert isinstance(found, Unjudged) and "stands alone" in str(found)
    with pytest.raises(ValueError, match="swap: expected some of text, tokens, both, found 'words'"):
        codec_runs.Swapped(Reader(), "words")


def test_costs_of_a_vocoder_and_of_continuous_tokens_stand_in_the_table():
    vocoder = jaxtok.load("griffin-lim")
    assert codec_runs.costs(vocoder, {}) == {"rate": 24000, "parameters": 0}
    config = jaxtok.get_config("ezaudio:tiny")
    model = AudioModel({}, jaxtok.build(config.model), config.rate)
    costs = codec_runs.costs(model, {})
    assert costs["latents_per_second"] == model.token_rate and costs["latent_width"] > 0
    lines = codec_report._costs([costs, {"rate": 24000, "parameters": 0}, {}])
    title = f"| latents/s x width | {model.token_rate:,.4g} x {costs['latent_width']} |  |  |"
    assert title in lines and not any("bit/s" in line for line in lines)
    assert "| parameters | 0 | 0 |  |" in lines
