"""MaskGIT: Masked Generative Image Transformer (arXiv 2202.04200).

    jaxtok train --config configs/fvq.py:mini --workdir runs/fvq                    # the tokenizer
    jaxtok encode --model runs/fvq --source samples:emoji --flip --output runs/fvq-tokens
    jaxtok train --config configs/maskgit.py:mini --workdir runs/maskgit
    jaxtok sample --model runs/maskgit --class "flags noto" --class 3 --steps 12 --guidance 3 --output grid.png

paper: 172.46 M parameters beside the tokenizer, on 16 x 16 codes of 1,024 of ImageNet at 256 x 256; the paper reports
FID 6.18 in 8 steps, without guidance, which it does not have. mini: 2.92 M parameters on the 8 x 8 codes of fvq:mini,
emoji of 36 classes (9 groups x 4 styles), with a share of hidden classes for guidance, 16 minutes on 2 cores; expect
the asked class in 33 % of the samples (chance 2.8 %) and a Frechet distance of 11 on the judge's features. tiny: mean
colours of patches in the tokens' place, so that it needs no tokenizer.
"""

import ml_collections

PAPER = dict(
    numbers=(),  # not in the reading list: the plain masked generator beside its systems
    title="MaskGIT: Masked Generative Image Transformer",
    url="https://arxiv.org/abs/2202.04200",
    modality="image",
    family="generator (masked)",
    status="generator from classes; editing to come",
)


def get_config(arg: str = "paper") -> ml_collections.ConfigDict:
    """The config of a variant: "tiny" (seconds, for tests), "mini" (minutes on 2 cores), "paper"."""
    variants = {"tiny": tiny, "mini": mini, "paper": paper}
    if arg not in variants:
        raise ValueError(f"maskgit has no variant {arg!r}; known: {', '.join(variants)}")
    return variants[arg]()


def paper() -> ml_collections.ConfigDict:
    return config(
        variant="paper", depth=24, width=768, heads=16, hidden=3072, scan=True, remat="nothing_saveable",
        dtype="bfloat16", classes=1000,
        source="tokens:/data/imagenet-tokens", **tokens(codes=1024, grid=(16, 16), tokenizer="", label="group"),
        label_drop=0.0, least=0.5,  # the released config's; the paper's text draws from the whole schedule
        sampling=dict(steps=8, choice_temperature=4.5, guidance=1.0),
        steps=2_000_000, warmup=5000, batch_size=256, rate=1e-4, ema=0.0, every=(100, 5000, 4, 5000), after=(),
    )  # fmt: skip


def mini() -> ml_collections.ConfigDict:
    images = dict(target="jaxtok.data.images:Images", size=32, label="group_style")
    return config(
        variant="mini", depth=6, width=192, heads=6, hidden=768, scan=False, remat="", dtype="float32", classes=36,
        source="tokens:runs/fvq-tokens", **tokens(codes=1024, grid=(8, 8), tokenizer="runs/fvq", label="group_style"),
        label_drop=0.1, least=0.0,
        sampling=dict(steps=12, choice_temperature=4.5, guidance=3.0),
        steps=1000, warmup=100, batch_size=64, rate=1e-3, ema=0.998, every=(20, 250, 4, 500),
        after=(dict(
            ref="jaxtok.evaluation.generator:write", judge="emoji-judge",
            images=dict(source="samples:emoji", examples=images),
        ),),
    )  # fmt: skip


def tiny() -> ml_collections.ConfigDict:
    return config(
        variant="tiny", depth=2, width=32, heads=2, hidden=64, scan=True, remat="", dtype="float32",
        codes=64, classes=36, grid=(4, 4),
        source="samples:emoji", tokenizer="",
        examples=dict(
            target="jaxtok.data.mosaic:Mosaic", size=16, patch=4, levels=(4, 4, 4), label="group_style", flip=True
        ),
        label_drop=0.1, least=0.0,
        sampling=dict(steps=4, choice_temperature=4.5, guidance=2.0),
        steps=2, warmup=0, batch_size=8, rate=1e-3, ema=0.9, every=(1, 2, 1, 2), after=(),
    )  # fmt: skip


def tokens(*, codes, grid, tokenizer, label):
    """Examples of what `jaxtok encode` wrote; tokens of another tokenizer than the run of this name are refused."""
    run = ml_collections.FieldReference(tokenizer)  # --config.tokenizer moves both
    examples = dict(
        target="jaxtok.data.tokens:Tokens", shape=(*grid, 1), codebook=codes, label=label, flip=True,
        fingerprint=dict(target="jaxtok.fingerprint:of_run", run=run),
    )  # fmt: skip
    return dict(codes=codes, grid=grid, tokenizer=run, examples=examples)


def config(
    *, variant, depth, width, heads, hidden, scan, remat, dtype, codes, classes, grid, source, tokenizer, examples,
    label_drop, least, sampling, steps, warmup, batch_size, rate, ema, every, after,
) -> ml_collections.ConfigDict:  # fmt: skip
    """One table of hyper-parameters; the variants differ in numbers alone."""
    log_every, evaluate_every, evaluate_batches, checkpoint_every = every
    schedule = dict(target="jaxtok.train.schedules:constant", value=rate, warmup=warmup)
    return ml_collections.ConfigDict(dict(
        slug="maskgit",
        variant=variant,
        seed=0,
        model=dict(
            target="jaxtok.nn.token_transformer:MaskedCodes", codes=codes, classes=classes, grid=grid, depth=depth,
            width=width, heads=heads, hidden=hidden, dropout=0.1, scan=scan, remat=remat, dtype=dtype,
        ),
        task=dict(
            target="jaxtok.tasks.generate_masked:GenerateMasked", label_drop=label_drop, smoothing=0.1, least=least,
        ),
        interface=dict(ref="jaxtok.models.generator:assemble"),
        tokenizer=tokenizer,  # the directory of the tokenizer's run
        shape=(*grid, 1),  # of one sample
        sampling=dict(
            target="jaxtok.tasks.generate_masked:MaskedSampling", temperature=1.0, scale="constant", schedule="cosine",
            **sampling,
        ),
        data=dict(source=source, examples=examples, window=16, workers=0, prefetch=2, max_corrupt=0.01),
        train=dict(
            steps=steps, batch_size=batch_size, accumulate=1, ema=ema,
            mesh=dict(data=-1, fsdp=1, tensor=1),
            sharding=(),
            players=dict(main=dict(
                pattern=".*", start=0, period=1, clip=1.0,
                optimizer=dict(
                    target="jaxtok.train.optimizers:adamw", b1=0.9, b2=0.96, weight_decay=0.045,
                    decay=r"(.*/)?(kernel|embedding)", schedule=schedule,
                ),
            )),
            log_every=log_every, evaluate_every=evaluate_every, evaluate_batches=evaluate_batches,
            checkpoint_every=checkpoint_every, keep_last=2,
        ),
        after=after,
    ))  # fmt: skip
