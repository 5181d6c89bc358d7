"""DiT: Scalable Diffusion Models with Transformers (arXiv 2212.09748, ICCV 2023).

    jaxtok train --config configs/dit.py:mini --workdir runs/dit
    jaxtok compile --config configs/dit.py:paper --topology v5e:16x16 --mesh data=256

paper: DiT-XL/2, 674.8 M trained parameters, on latents of 32 x 32 x 4 of ImageNet at 256 x 256 (Stable Diffusion's
autoencoder; `jaxtok encode` normalises them, where the reference multiplies by 0.18215), 7 million steps of batch 256;
the paper reports FID 2.27 with guidance 1.5. Its guidance acts on the first three of the four channels. mini: pixels of
32 x 32 emoji in 36 classes (9 groups x 4 styles), and v in the place of the noise, which so few steps do not learn well
enough. 15 minutes on 2 cores and 6 for the report; expect the asked class in 39 % of the samples (chance 3 %, real
images 52 %) and a Frechet distance of 3 on the judge's features (real images 1).
"""

import ml_collections

PAPER = dict(
    numbers=(),
    title="Scalable Diffusion Models with Transformers",
    url="https://arxiv.org/abs/2212.09748",
    modality="image",
    family="generator (diffusion transformer)",
    status="generator; no configuration for its tokenizer yet",
)


def get_config(arg: str = "paper") -> ml_collections.ConfigDict:
    """The config of a variant: "tiny" (seconds, for tests), "mini" (minutes on 2 cores), "paper"."""
    variants = {"tiny": tiny, "mini": mini, "paper": paper}
    if arg not in variants:
        raise ValueError(f"dit has no variant {arg!r}; known: {', '.join(variants)}")
    return variants[arg]()


def paper() -> ml_collections.ConfigDict:
    return config(
        variant="paper",
        network=dict(depth=28, width=1152, heads=16, patch=2, out_channels=8, classes=1000,
                     remat="nothing_saveable", dtype="bfloat16"),
        field="latents", shape=(32, 32, 4), source="tokens:/data/imagenet-latents",
        examples=dict(target="jaxtok.data.tokens:Tokens", shape=(32, 32, 4), codebook=0, label="group", flip=True),
        sampling=dict(steps=250, guidance=1.5, channels=3, clip=0.0),
        steps=7_000_000, batch_size=256, rate=1e-4, ema=0.9999, every=(100, 5000, 4, 5000), after=(),
    )  # fmt: skip


def mini() -> ml_collections.ConfigDict:
    return config(
        variant="mini",
        network=dict(depth=6, width=192, heads=6, patch=4, out_channels=6, classes=36, scan=False, remat="",
                     dtype="float32"),
        field="image", prediction="v", shape=(32, 32, 3), source="samples:emoji",
        examples=dict(target="jaxtok.data.images:Images", size=32, flip=True, label="group_style"),
        sampling=dict(steps=50, guidance=2.0, channels=0, clip=1.0),
        steps=1200, batch_size=64, rate=1e-3, ema=0.995, every=(20, 400, 4, 400),
        after=(dict(
            ref="jaxtok.evaluation.generator:write", judge="emoji-judge",
            images=dict(
                source="samples:emoji",
                examples=dict(target="jaxtok.data.images:Images", size=32, label="group_style"),
            ),
        ),),
    )  # fmt: skip


def tiny() -> ml_collections.ConfigDict:
    return config(
        variant="tiny",
        network=dict(depth=2, width=32, heads=2, patch=4, out_channels=6, classes=36, remat="", dtype="float32"),
        field="image", shape=(16, 16, 3), source="samples:emoji",
        examples=dict(target="jaxtok.data.images:Images", size=16, flip=True, label="group_style"),
        sampling=dict(steps=4, guidance=2.0, channels=0, clip=1.0),
        steps=2, batch_size=8, rate=1e-3, ema=0.9, every=(1, 2, 1, 2), after=(),
    )  # fmt: skip


def config(
    *, variant, network, field, prediction="noise", shape, source, examples, sampling, steps, batch_size, rate, ema,
    every, after,
) -> ml_collections.ConfigDict:  # fmt: skip
    """One table of hyper-parameters; the variants differ in numbers alone."""
    log_every, evaluate_every, evaluate_batches, checkpoint_every = every
    schedule = dict(target="jaxtok.train.schedules:constant", value=rate)
    return ml_collections.ConfigDict(dict(
        slug="dit",
        variant=variant,
        seed=0,
        model=dict(target="jaxtok.nn.dit:DiT", **network),
        task=dict(
            target="jaxtok.tasks.denoise:Denoise", field=field, prediction=prediction, learned_variance=True,
            label_drop=0.1, betas=dict(ref="jaxtok.diffusion.paths:linear_betas"),
        ),
        interface=dict(ref="jaxtok.models.generator:assemble"),
        tokenizer="",  # of latents: the directory of the tokenizer's run
        shape=shape,  # of one sample
        sampling=dict(target="jaxtok.tasks.denoise:TableSampling", method="ancestral", spacing="respaced", **sampling),
        data=dict(source=source, examples=examples, window=16, workers=0, prefetch=2, max_corrupt=0.01),
        train=dict(
            steps=steps, batch_size=batch_size, accumulate=1, ema=ema,
            mesh=dict(data=-1, fsdp=1, tensor=1),
            sharding=(),
            players=dict(main=dict(
                pattern=".*", start=0, period=1, clip=0.0,
                optimizer=dict(target="jaxtok.train.optimizers:adamw", weight_decay=0.0, schedule=schedule),
            )),
            log_every=log_every, evaluate_every=evaluate_every, evaluate_batches=evaluate_batches,
            checkpoint_every=checkpoint_every, keep_last=2,
        ),
        after=after,
    ))  # fmt: skip
