"""The judge of generated emoji: a small classifier of 9 groups x 4 styles, trained on the real training images.

    jaxtok train --config jaxtok/pretrained/emoji_judge.py --workdir runs/judge

Its weights are shipped: ``jaxtok.load("emoji-judge").predict(images)``; ``emoji-judge/README.md`` has its numbers and
limits. Reports of generators count the samples in which it sees the asked class, and take the Frechet distance of its
64 features. It is no Inception, and nothing that is measured with it is called FID.
"""

import ml_collections


def get_config(arg: str = "mini") -> ml_collections.ConfigDict:
    """The config; it has one variant."""
    if arg != "mini":
        raise ValueError(f"emoji_judge has no variant {arg!r}; known: mini")
    steps = 1000
    schedule = dict(target="jaxtok.train.schedules:cosine", peak=2e-3, warmup=100, steps=steps)
    return ml_collections.ConfigDict(dict(
        slug="emoji_judge",
        variant="mini",
        seed=0,
        model=dict(
            target="jaxtok.nn.classifier:Classifier",
            encoder=dict(
                target="jaxtok.nn.vqgan:Encoder", channels=16, multipliers=(1, 2, 4, 4), blocks=1, groups=8,
                z_channels=64,
            ),
            classes=36,
        ),
        task=dict(target="jaxtok.tasks.classify:Classify", smoothing=0.1),
        interface=dict(ref="jaxtok.models.classifier:assemble"),
        data=dict(
            source="samples:emoji",
            examples=dict(
                target="jaxtok.data.images:Images", size=32, flip=True, crop=(0.6, 1.0), label="group_style",
            ),
            window=16, workers=0, prefetch=2, max_corrupt=0.01,
        ),
        train=dict(
            steps=steps, batch_size=64, accumulate=1, ema=0.99,
            mesh=dict(data=-1, fsdp=1, tensor=1),
            sharding=(),
            players=dict(main=dict(
                pattern=".*", start=0, period=1, clip=1.0,
                optimizer=dict(target="jaxtok.train.optimizers:adamw", weight_decay=0.05, schedule=schedule),
            )),
            log_every=20, evaluate_every=250, evaluate_batches=0, checkpoint_every=250, keep_last=2,
        ),
        after=(),
    ))  # fmt: skip
