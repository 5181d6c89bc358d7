"""FVQ: Scalable Training for Vector-Quantized Networks with 100% Codebook Utilization (arXiv 2509.10140, ICLR 2026).

    jaxtok train --config configs/fvq.py:mini --workdir runs/fvq      # about 8 minutes on 2 CPU cores
    jaxtok compile --config configs/fvq.py:paper --topology v5e:4x4 --mesh data=16

paper: 79.23 M parameters (bridge 3.15 M), ImageNet 256 x 256 to 256 tokens of 14 bits, 40 epochs of batch 128; the
paper reports rFID 1.30 and every code in use. It trains with LPIPS (weight 1) and a PatchGAN (0.5, from step 20,000)
beside the pixels; here the pixels and the codebook alone, until those parts join, so expect smoother images and no
such FID. After training, `jaxtok.quantizers.export` stores the bridge's codebook and drops the bridge. mini: 1.34 M
parameters, emoji of 32 x 32 to 64 tokens of 10 bits; expect 23.5 dB on held-out emoji (mean image 12.0, untrained
8.4) and at least 950 of 1,024 codes in use. The paper's 100 % is of 40 epochs; this is less than 3.
"""

import ml_collections

PAPER = dict(
    numbers=(27,),
    title="Scalable Training for Vector-Quantized Networks with 100% Codebook Utilization",
    url="https://arxiv.org/abs/2509.10140",
    modality="image",
    family="tokenizer (VQ training method)",
    status="tokenizer with pixel and codebook loss; perceptual and adversarial terms, and the generator, to come",
)
EPOCH = 1_281_167 // 128  # steps of the reference's batch


def get_config(arg: str = "paper") -> ml_collections.ConfigDict:
    """The config of a variant: "tiny" (seconds, for tests), "mini" (minutes on 2 cores), "paper"."""
    variants = {"tiny": tiny, "mini": mini, "paper": paper}
    if arg not in variants:
        raise ValueError(f"fvq has no variant {arg!r}; known: {', '.join(variants)}")
    return variants[arg]()


def paper() -> ml_collections.ConfigDict:
    return config(
        variant="paper", channels=128, multipliers=(1, 1, 2, 2, 4), blocks=2, groups=32, z_channels=256,
        remat="", dtype="bfloat16",
        codebook=dict(size=16384, width=256, patch=4, hidden=256),  # "L/4": 16 codes per patch
        source="tfds:imagenet2012",
        # The reference's crops have 0.8 to 1 times the shorter side.
        examples=dict(size=256, flip=True, crop=(0.64, 1.0), ratio=(1.0, 1.0), label="", cache=0),
        steps=40 * EPOCH, warmup=4 * EPOCH, batch_size=128, rate=1e-4, every=(100, 5000, 0, 5000),
    )  # fmt: skip


def mini() -> ml_collections.ConfigDict:
    return config(
        variant="mini", channels=32, multipliers=(1, 2, 2), blocks=1, groups=8, z_channels=64,
        remat="", dtype="float32",
        codebook=dict(size=1024, width=64, patch=4, hidden=64),
        source="samples:emoji", examples=dict(size=32, flip=True, label=""),
        steps=600, warmup=60, batch_size=32, rate=4e-3, every=(10, 200, 4, 400),
    )  # fmt: skip


def tiny() -> ml_collections.ConfigDict:
    return config(
        variant="tiny", channels=8, multipliers=(1, 2), blocks=1, groups=4, z_channels=8,
        remat="", dtype="float32",
        codebook=dict(size=64, width=8, patch=4, hidden=16),
        source="samples:emoji", examples=dict(size=16, label=""),
        steps=2, warmup=0, batch_size=8, rate=1.6e-2, every=(1, 2, 1, 2),
    )  # fmt: skip


def config(
    *, variant, channels, multipliers, blocks, groups, z_channels, remat, dtype, codebook, source, examples, steps,
    warmup, batch_size, rate, every,
) -> ml_collections.ConfigDict:  # fmt: skip
    """One table of hyper-parameters; the variants differ in numbers alone."""
    network = dict(
        channels=channels, multipliers=multipliers, blocks=blocks, groups=groups, z_channels=z_channels, remat=remat,
        dtype=dtype,
    )  # fmt: skip
    # Linear from 0.5 % of the peak, held for 30 % of what follows, linear to 1 %: the paper's learning annealing.
    schedule = dict(target="jaxtok.train.schedules:annealed", peak=rate * batch_size / 128, warmup=warmup, steps=steps)
    log_every, evaluate_every, evaluate_batches, checkpoint_every = every
    return ml_collections.ConfigDict(dict(
        slug="fvq",
        variant=variant,
        seed=0,
        model=dict(
            target="jaxtok.tokenizers.feedforward:FeedForwardTokenizer",
            encoder=dict(target="jaxtok.nn.vqgan:Encoder", **network),
            quantizer=dict(target="jaxtok.quantizers.bridge:FVQ", commitment=0.25, depth=2, heads=4, **codebook),
            decoder=dict(target="jaxtok.nn.vqgan:Decoder", **network),
            pre=codebook["width"],
            post=z_channels,
        ),
        task=dict(target="jaxtok.tasks.autoencode_image:ImageAutoencode", pixel="l2", weight=1.0),
        interface=dict(ref="jaxtok.models.image:assemble"),
        data=dict(
            source=source,
            examples=dict(target="jaxtok.data.images:Images", **examples),
            window=16, workers=0, prefetch=2, max_corrupt=0.01,
        ),
        train=dict(
            steps=steps, batch_size=batch_size, accumulate=1, ema=0.0,
            mesh=dict(data=-1, fsdp=1, tensor=1),
            sharding=(),
            players=dict(main=dict(
                pattern=".*", start=0, period=1, clip=1.0,
                optimizer=dict(  # Adam: the reference has a weight decay but does not pass it on
                    target="jaxtok.train.optimizers:adamw", b1=0.9, b2=0.95, weight_decay=0.0, schedule=schedule,
                ),
            )),
            log_every=log_every, evaluate_every=evaluate_every, evaluate_batches=evaluate_batches,
            checkpoint_every=checkpoint_every, keep_last=2,
        ),
        after=(dict(ref="jaxtok.tasks.image_evaluation:write"),),
    ))  # fmt: skip
