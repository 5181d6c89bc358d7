"""What tasks that train waveform generators share: crops, the losses of both players, distances in evaluation."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxtok.losses import adversarial
from jaxtok.metrics import audio as metrics
from jaxtok.signal.mel import MelFrontEnd

Batch = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Term:
    """How an ensemble of discriminators enters the losses of both players.

    Losses are means over its members; a paper that sums over them multiplies ``weight`` by their number.

    Attributes:
      weight: of all that the ensemble says.
      matching: weight of the features' distance beside the adversarial term.
      criterion: see :data:`jaxtok.losses.adversarial.CRITERIA`.
      first: the first hidden layer whose features are matched.
      logits: whether the logits are matched as well.
    """

    weight: float = 1.0
    matching: float = 1.0
    criterion: str = "clipped_hinge"
    first: int = 1
    logits: bool = True

    def __post_init__(self):
        adversarial.criterion(self.criterion)

    def layers(self, judged: Any) -> list[tuple[Any, ...]]:
        """What is matched, of each member."""
        return [(*one.features[self.first :], *([one.logits] if self.logits else [])) for one in judged]


class Opinion(NamedTuple):
    """What discriminators say of a batch.

    Attributes:
      generator: scalar that the generator pays.
      discriminator: scalar that the discriminators pay.
      numbers: the parts of the first, ``adversarial_NAME`` and ``features_NAME``, by ensemble.
      record: the parts of the second by ensemble.
      real: logits of recordings, per ensemble one array per member.
      fake: logits of the samples.
    """

    generator: jax.Array
    discriminator: jax.Array
    numbers: dict[str, jax.Array]
    record: dict[str, jax.Array]
    real: Any
    fake: Any


def opinion(
    judge: Callable[[Any, Any], Any], params: Any, x: jax.Array, y: jax.Array, terms: Mapping[str, Term]
) -> Opinion:
    """The losses of both players: sums over ensembles of weight * (adversarial + matching * features).

    No gradient of the first reaches the discriminators' parameters, none of the second the samples.

    Args:
      judge: from (parameters, audio [B, L]) to what a :class:`jaxtok.nn.discriminators.Panel` says.
      params: the discriminators'.
      x: recordings [B, L].
      y: samples [B, L].
      terms: by the names of the panel's ensembles.
    """
    seen = adversarial.looks(judge, params, x, y)
    generator, discriminator, numbers, record = jnp.zeros(()), jnp.zeros(()), {}, {}
    for name, term in terms.items():
        real, fake, through = (look[name] for look in seen)
        fooled = adversarial.generator_loss(logits(through), term.criterion).mean()
        matched = adversarial.feature_matching(term.layers(real), term.layers(through)).mean()
        generator += term.weight * (fooled + term.matching * matched)
        numbers |= {f"adversarial_{name}": fooled, f"features_{name}": matched}
        record[name] = adversarial.discriminator_loss(logits(real), logits(fake), term.criterion).mean()
        discriminator += term.weight * record[name]
    return Opinion(generator, discriminator, numbers, record, logits(seen.real), logits(seen.fake))


def logits(seen: Any) -> Any:
    """The logits alone of what an ensemble, or a panel of them, says."""
    if isinstance(seen, Mapping):
        return {name: logits(ensemble) for name, ensemble in seen.items()}
    return tuple(one.logits for one in seen)


def mask_of(batch: Batch) -> jax.Array:
    """``audio_mask`` bool [B, L], or all where the batch has none."""
    return batch["audio_mask"] if "audio_mask" in batch else jnp.ones(batch["audio"].shape, bool)


def check_crop(crop: int, hop: int, peak: tuple[float, ...]) -> None:
    """ValueError for a crop that is no whole number of hops, or a peak that is none."""
    if crop <= 0 or crop % hop:
        raise ValueError(f"crop: expected whole hops of {hop} samples, found {crop}")
    if peak and (len(peak) != 2 or not peak[0] <= peak[1] <= 0):
        raise ValueError(f"peak: expected (low, high) decibels up to 0, or (), found {peak}")


def crops(batch: Batch, keys: jax.Array, *, crop: int, peak: tuple[float, ...]) -> jax.Array:
    """Training examples [B, crop]: a stretch drawn from each recording; one that is shorter is repeated.

    Args:
      batch: ``audio [B, L]`` and, where there is padding, ``audio_mask``.
      keys: one per recording, [B].
      crop: samples.
      peak: (low, high) in decibels: each recording is brought to a peak drawn between them; () leaves it.
    """
    mask = mask_of(batch)
    lengths = mask.sum(1)
    draw = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys)
    room = jnp.maximum(lengths - crop, 0)
    start = jnp.minimum((draw[:, 0] * (room + 1)).astype(jnp.int32), room)
    index = (start[:, None] + jnp.arange(crop)) % jnp.maximum(lengths, 1)[:, None]
    x = jnp.take_along_axis(batch["audio"], index, axis=1)
    if not peak:
        return x
    low, high = peak
    loudest = jnp.where(mask, jnp.abs(batch["audio"]), 0).max(1)
    gain = 10 ** ((low + (high - low) * draw[:, 1]) / 20) / jnp.where(loudest > 0, loudest, 1)
    return x * gain[:, None]


def distances(x: jax.Array, y: jax.Array, mask: jax.Array, *, judge: MelFrontEnd) -> dict[str, jax.Array]:
    """``mel_distance`` (nats below 8 kHz) and ``stft_distance`` [B] of audio y from recordings x inside the mask.

    Args:
      x: [B, L].
      y: [B, L].
      mask: bool [B, L].
      judge: the front end of the mel distance.
    """
    lengths = mask.sum(1)
    mels = [judge(audio, lengths=lengths) for audio in (x, y)]
    frames = jnp.arange(mels[0].shape[1]) < (lengths // judge.hop)[:, None]
    return {
        "mel_distance": metrics.mel_distance(*mels, frames, frontend=judge),
        "stft_distance": metrics.stft_distance(x, y, mask),
    }
