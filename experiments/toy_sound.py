"""Synthetic tones whose truth is known, for the experiments of waveform codecs: harmonics and noise at 8 kHz.

A tone has 8 harmonics of its pitch with the amplitudes of its timbre, an attack, a decay, a vibrato, and white noise 40
dB below. Classes are 8 pitches from 150 to 275 Hz times 4 timbres. What varies within a class leaves its log-mel, whose
floor lies above the noise, alone: the noise, and the moment at which the harmonics are in phase.
"""

import dataclasses
import functools

import grain
import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.signal.log_mel import LogMel

RATE, LENGTH, HOP = 8000, 1280, 80
PITCHES, HARMONICS = 8, 8
_ORDER = np.arange(1, HARMONICS + 1)
TIMBRES = np.stack([1 / _ORDER, (_ORDER % 2) / _ORDER**0.5, np.exp(-(((_ORDER - 5) / 1.5) ** 2)), 0.5 + 0 * _ORDER])
CLASSES = PITCHES * len(TIMBRES)
MEL = LogMel(sample_rate=RATE, n_fft=320, hop=HOP, bands=32, floor=0.3)


def render(pitch, amplitudes, phases, noise, level, xp=np):
    """Tones [B, L] of pitches [B] in steps above 150 Hz, eight to an octave, amplitudes and phases [B, 8], noise [B, L]
    and levels [B]."""
    t = xp.arange(noise.shape[1]) / RATE
    cycles = 150 * 2 ** (pitch[:, None] / PITCHES) * (t + 2e-4 * xp.sin(2 * np.pi * 6 * t) / 6)
    angle = 2 * np.pi * (cycles[:, :, None] * _ORDER + phases[:, None])
    power = xp.sqrt((amplitudes**2).sum(-1) / 2)[:, None]
    sound = (xp.sin(angle) * amplitudes[:, None]).sum(-1) / power
    shape = xp.minimum(t / 0.02, 1.0) * xp.exp(-t / 0.15)
    return level[:, None] * (shape * sound + 0.01 * noise)


def classes(key, count):
    """A batch of ``count`` tones: ``audio`` [B, L], ``label`` and ``index`` int [B]."""
    keys = jax.random.split(key, 4)
    label = jax.random.randint(keys[0], (count,), 0, CLASSES)
    return {"audio": of_classes(keys[1], label), "label": label, "index": jnp.arange(count)}


def of_classes(key, label):
    """Tones [B, L] of the classes ``label``, at one level; their harmonics are in phase at a random moment."""
    keys, count = jax.random.split(key), len(label)
    return render(
        label // len(TIMBRES) * 1.0, jnp.asarray(TIMBRES, jnp.float32)[label % len(TIMBRES)],
        jax.random.uniform(keys[0], (count, 1)) * _ORDER, jax.random.normal(keys[1], (count, LENGTH)),
        jnp.full(count, 0.2), jnp,
    )  # fmt: skip


def spectral_error(audio, reference):
    """The mean difference of log-mels in nats, [B], of audio [B, L] and log-mels [B, T, bands]."""
    return jnp.abs(MEL(audio) - reference).mean((1, 2))


@dataclasses.dataclass(frozen=True)
class Tones:
    """Endless tones of any pitch in two octaves, any mixture of timbres and any level within 12 dB, for the loop.

    Attributes:
      samples: of a tone.
      held_out: how many a held-out split has.
    """

    samples: int = 1600
    held_out: int = 256

    def example(self, split, seed, index):
        """The tone at a position of a split (0 training, 1 validation, 2 test): a function of its arguments alone."""
        rng = np.random.default_rng((split, seed, index))
        mixture = rng.dirichlet(np.full(len(TIMBRES), 0.5)) @ TIMBRES
        audio = render(
            rng.uniform(0, 2 * PITCHES, 1), mixture[None], rng.uniform(size=(1, HARMONICS)),
            rng.normal(size=(1, self.samples)), 10 ** rng.uniform(-1.3, -0.7, 1),
        )  # fmt: skip
        return {"audio": audio[0].astype(np.float32), "index": np.int32(index)}

    def training(self, *, batch_size, seed, process_index=0, process_count=1):
        """An endless iterator of batches with a state, as the loop wants it."""
        data = grain.MapDataset.range(1 << 30).map(functools.partial(self.example, 0, seed))
        data = data[process_index::process_count].batch(batch_size // process_count)
        return iter(data.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)))

    def evaluation(self, *, split, batch_size, limit=0, process_index=0, process_count=1):
        """Held-out batches; the same for every seed."""
        del process_index, process_count
        for begin in range(0, limit or self.held_out, batch_size):
            rows = [self.example(1 + (split == "test"), 0, index) for index in range(begin, begin + batch_size)]
            yield {name: np.stack([row[name] for row in rows]) for name in rows[0]}
