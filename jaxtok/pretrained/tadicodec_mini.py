"""A small TaDiCodec that shall speak: the mini of `configs/tadicodec.py`, wider and longer, with 50 tokens a second.

    jaxtok train --config jaxtok/pretrained/tadicodec_mini.py --workdir runs/tadicodec

The recipe of the weights "tadicodec-mini", whose model card has the numbers: one voice in English and Spanish, and a
decoder that predicts the frames and not their velocity, more often near noise, where it needs the tokens. What was
tried before stands in ``experiments/LOG.md``.
"""

import ml_collections

from jaxtok import recipes


def get_config(arg: str = "mini") -> ml_collections.ConfigDict:
    """The config; it has one variant."""
    if arg != "mini":
        raise ValueError(f"tadicodec_mini has no variant {arg!r}; known: mini")
    steps, languages = 5_000, ("en", "es")  # one voice speaks both
    size = dict(width=192, heads=3, hidden=512, factor=1)
    config = recipes.get_config("tadicodec:mini")
    config.update(dict(
        slug="tadicodec_mini",
        task=dict(prompt_rate=0.5, shift=3.0),
        model=dict(encoder=dict(depth=2, **size), decoder=dict(depth=6, prediction="data", **size)),
        data=dict(
            examples=dict(multiple=size["factor"] * 480), languages=languages, evaluation=dict(languages=languages)
        ),
        train=dict(steps=steps, ema=0.998, evaluate_every=500),
    ))  # fmt: skip
    schedule = dict(target="jaxtok.train.schedules:annealed", peak=1e-3, steps=steps, warmup=100, held=0.5)
    config.train.players.main.optimizer.schedule = ml_collections.ConfigDict(schedule)
    return config
