"""Synthetic speech whose truth is known, and a judge of it: for the experiments of the speech tokenizers.

16 phonemes, each a spectral envelope of two peaks over 32 bands, low and high one of four places each; a speaker
shifts the peaks by up to 1.5 bands and tilts the spectrum; a phoneme lasts 4 to 12 frames. Envelopes have no slope of
their own, so a spectrum's slope is the speaker's tilt.
"""

import dataclasses
import functools

import grain
import numpy as np

FRAMES, BANDS, PHONEMES = 32, 32, 16
LINE = np.linspace(-1.0, 1.0, BANDS)


def straighten(x):
    """x [..., BANDS] without its least-squares line, and the line's slope [...]."""
    slope = (x * LINE).sum(-1) / (LINE**2).sum()
    return x - x.mean(-1, keepdims=True) - slope[..., None] * LINE, slope


def envelopes(shift):
    """The phonemes as a speaker with this shift says them, [PHONEMES, BANDS]: no mean, no slope, variance 1."""
    low, high = np.divmod(np.arange(PHONEMES), 4)
    peaks = np.stack([5 + 3 * low, 18 + 3 * high], -1)[..., None] + shift  # [PHONEMES, 2, 1]
    shape, _ = straighten(np.exp(-(((np.arange(BANDS) - peaks) / 1.7) ** 2)).sum(1))
    return shape / shape.std(-1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class Speech:
    """Endless utterances; ``text`` False hides the transcript, in training and after.

    Besides what a task reads (``mel``, ``text_ids``, ``text_mask``, ``index``) examples carry the truth: ``phoneme``,
    ``segment`` and ``duration`` per frame, ``shift`` and ``tilt``.
    """

    text: bool = True
    held_out: int = 2560

    def example(self, split, seed, index):
        """The utterance at a position of a split (0 training, 1 held out): a function of its arguments alone."""
        rng = np.random.default_rng((split, seed, index))
        shift, tilt = rng.uniform(-1.5, 1.5), rng.uniform(-1.0, 1.0)
        durations = []
        while FRAMES - sum(durations) > 12:
            durations.append(min(rng.integers(4, 13), FRAMES - sum(durations) - 4))
        durations.append(FRAMES - sum(durations))
        steps = rng.integers(1, PHONEMES, len(durations))  # from one phoneme to the next, never the same twice
        phonemes = np.cumsum(steps) % PHONEMES
        mel = np.repeat(envelopes(shift)[phonemes], durations, axis=0) + tilt * LINE
        text = np.zeros(FRAMES // 4, np.int32)
        text[: len(phonemes)] = phonemes
        return {
            "mel": (mel + 0.2 * rng.normal(size=mel.shape)).astype(np.float32),
            "text_ids": text,
            "text_mask": (np.arange(len(text)) < len(phonemes)) & self.text,
            "phoneme": np.repeat(phonemes, durations).astype(np.int32),
            "segment": np.repeat(np.arange(len(phonemes)), durations).astype(np.int32),
            "duration": np.repeat(durations, durations).astype(np.float32),
            "shift": np.float32(shift),
            "tilt": np.float32(tilt),
            "index": np.int32(index),
        }

    def training(self, *, batch_size, seed, process_index=0, process_count=1):
        """An endless iterator of batches with a state, as the loop wants it."""
        data = grain.MapDataset.range(1 << 30).map(functools.partial(self.example, 0, seed))
        data = data[process_index::process_count].batch(batch_size // process_count)
        return iter(data.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)))

    def evaluation(self, *, split, batch_size, limit=0, process_index=0, process_count=1):
        """Held-out batches; the same for every seed."""
        del split, process_index, process_count
        for begin in range(0, limit or self.held_out, batch_size):
            rows = [self.example(1, 0, index) for index in range(begin, begin + batch_size)]
            yield {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def judge(mel, truth, prompt):
    """Errors of mels [N, FRAMES, BANDS] on the frames after the first ``prompt``; a phoneme over its true segment.

    The judge correlates the segment's straightened mean with the envelopes as the true speaker says them (it knows the
    shift). The tilt is the slope of the mean spectrum, for the phonemes have none.
    """
    wrong = []
    for one, phoneme, segment, shift in zip(mel, truth["phoneme"], truth["segment"], truth["shift"]):
        filters = envelopes(shift)
        for which in range(segment[prompt] + 1, segment[-1] + 1):
            mean, _ = straighten(one[segment == which].mean(0))
            wrong.append((filters @ mean).argmax() != phoneme[segment == which][0])
    _, slope = straighten(mel[:, prompt:].mean(1))
    return {
        "phoneme": float(np.mean(wrong)),
        "mel": float(np.abs(mel - truth["mel"])[:, prompt:].mean()),
        "tilt": float(np.abs(slope - truth["tilt"]).mean()),
    }


def probe(codes, latents, truth):
    """Held-out share of variance (R2) that ridge regression from a code (one-hot) and its neighbours' bits explains.

    Of the phoneme and its duration at the token's middle frame, and of the speaker's tilt and shift.
    """
    factor = FRAMES // latents.shape[1]
    around = np.pad(latents, ((0, 0), (1, 1), (0, 0)))
    x = np.concatenate([np.eye(2 ** latents.shape[-1])[codes[..., 0]], around[:, :-2], around[:, 2:]], -1)
    middle, each = slice(factor // 2, None, factor), np.ones((1, latents.shape[1], 1))
    targets = {
        "phoneme": np.eye(PHONEMES)[truth["phoneme"][:, middle]],
        "duration": truth["duration"][:, middle, None],
        "tilt": truth["tilt"][:, None, None] * each,
        "shift": truth["shift"][:, None, None] * each,
    }
    half, found = len(x) // 2, {}
    learn = x[:half].reshape(-1, x.shape[-1])
    for name, y in targets.items():
        y = y - y[:half].mean((0, 1))
        gram = learn.T @ learn + np.eye(x.shape[-1])
        rest = y[half:] - x[half:] @ np.linalg.solve(gram, learn.T @ y[:half].reshape(len(learn), -1))
        found[f"R2 {name}"] = float(1 - (rest**2).sum() / (y[half:] ** 2).sum())
    return found
