"""LightningDiT: Reconstruction vs. Generation: Taming Optimization Dilemma in Latent Diffusion Models (2501.01423).

    jaxtok train --config configs/lightningdit.py:mini --workdir runs/dit
    jaxtok sample --model runs/dit --class "flags noto" --class 3 --steps 16 --guidance 2 --output grid.png
    jaxtok compile --config configs/lightningdit.py:paper --topology v5e:16x16 --mesh data=256

paper: LightningDiT-XL/1, 674.96 M trained parameters, on latents of 16 x 16 x 32 of ImageNet at 256 x 256, 80,000 steps
of batch 1024 (64 epochs); the paper reports FID 2.11 with guidance. Its tokenizer VA-VAE is yet to come: give
`data.source` a folder that `jaxtok encode` wrote with a tokenizer of that shape. mini: 4.19 M parameters on pixels of
32 x 32 emoji in 36 classes (9 groups x 4 styles), 17.5 minutes on 2 cores; expect the asked class in 22 % of the
samples (chance 2.8 %; 32 % with guidance 4) and a Frechet distance of 1.9 on the judge's features.
"""

import ml_collections

PAPER = dict(
    numbers=(21,),
    title="Reconstruction vs. Generation: Taming Optimization Dilemma in Latent Diffusion Models",
    url="https://arxiv.org/abs/2501.01423",
    modality="image",
    family="generator (diffusion transformer)",
    status="generator; the tokenizer (VA-VAE) to come",
)


def get_config(arg: str = "paper") -> ml_collections.ConfigDict:
    """The config of a variant: "tiny" (seconds, for tests), "mini" (minutes on 2 cores), "paper"."""
    variants = {"tiny": tiny, "mini": mini, "paper": paper}
    if arg not in variants:
        raise ValueError(f"lightningdit has no variant {arg!r}; known: {', '.join(variants)}")
    return variants[arg]()


def paper() -> ml_collections.ConfigDict:
    return config(
        variant="paper",
        network=dict(depth=28, width=1152, heads=16, patch=1, classes=1000, remat="nothing_saveable", dtype="bfloat16"),
        task=dict(field="latents"), shape=(16, 16, 32),
        source="tokens:/data/imagenet-latents",
        examples=dict(target="jaxtok.data.tokens:Tokens", shape=(16, 16, 32), codebook=0, label="group", flip=True),
        # The 64-epoch model's guidance, of 3 channels; time here runs from data to noise.
        sampling=dict(method="euler", steps=249, guidance=10.0, shift=1 / 0.3, interval=(0.0, 0.9), channels=3),
        steps=80_000, warmup=0, batch_size=1024, rate=2e-4, ema=0.9999, every=(100, 5000, 4, 5000), after=(),
    )  # fmt: skip


def mini() -> ml_collections.ConfigDict:
    return config(
        variant="mini",
        network=dict(depth=6, width=192, heads=6, patch=4, classes=36, scan=False, remat="", dtype="float32"),
        task=dict(), shape=(32, 32, 3),
        source="samples:emoji",
        examples=dict(target="jaxtok.data.images:Images", size=32, flip=True, label="group_style"),
        sampling=dict(method="dpm_solver", steps=16, guidance=2.0, shift=1.0, interval=(0.0, 1.0), channels=0),
        steps=1200, warmup=100, batch_size=64, rate=1e-3, ema=0.995, every=(20, 400, 4, 400),
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
        network=dict(depth=2, width=32, heads=2, patch=4, classes=36, remat="", dtype="float32"),
        task=dict(), shape=(16, 16, 3),
        source="samples:emoji",
        examples=dict(target="jaxtok.data.images:Images", size=16, flip=True, label="group_style"),
        sampling=dict(method="euler", steps=4, guidance=2.0, shift=1.0, interval=(0.0, 1.0), channels=0),
        steps=2, warmup=0, batch_size=8, rate=1e-3, ema=0.9, every=(1, 2, 1, 2), after=(),
    )  # fmt: skip


def config(
    *, variant, network, task, shape, source, examples, sampling, steps, warmup, batch_size, rate, ema, every, after,
) -> ml_collections.ConfigDict:  # fmt: skip
    """One table of hyper-parameters; the variants differ in numbers alone."""
    log_every, evaluate_every, evaluate_batches, checkpoint_every = every
    schedule = dict(target="jaxtok.train.schedules:constant", value=rate, warmup=warmup)
    return ml_collections.ConfigDict(dict(
        slug="lightningdit",
        variant=variant,
        seed=0,
        model=dict(target="jaxtok.nn.dit:DiT", rms=True, swiglu=True, rope=True, qk_norm=False, **network),
        task=dict(
            target="jaxtok.tasks.diffuse:Diffuse", direction=1.0, label_drop=0.1,
            draw=dict(ref="jaxtok.diffusion.times:logit_normal"), **task,
        ),
        interface=dict(ref="jaxtok.models.generator:assemble"),
        tokenizer="",  # of latents: the directory of the tokenizer's run
        shape=shape,  # of one sample
        sampling=dict(target="jaxtok.tasks.diffuse:Sampling", **sampling),
        data=dict(source=source, examples=examples, window=16, workers=0, prefetch=2, max_corrupt=0.01),
        train=dict(
            steps=steps, batch_size=batch_size, accumulate=1, ema=ema,
            mesh=dict(data=-1, fsdp=1, tensor=1),
            sharding=(),
            players=dict(main=dict(
                pattern=".*", start=0, period=1, clip=0.0,
                optimizer=dict(
                    target="jaxtok.train.optimizers:adamw", b1=0.9, b2=0.95, weight_decay=0.0, schedule=schedule,
                ),
            )),
            log_every=log_every, evaluate_every=evaluate_every, evaluate_batches=evaluate_batches,
            checkpoint_every=checkpoint_every, keep_last=2,
        ),
        after=after,
    ))  # fmt: skip
