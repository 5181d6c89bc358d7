"""LlamaGen: Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation (arXiv 2406.06525).

    jaxtok train --config configs/fvq.py:mini --workdir runs/fvq                    # the tokenizer
    jaxtok encode --model runs/fvq --source samples:emoji --flip --output runs/fvq-tokens
    jaxtok train --config configs/llamagen.py:mini --workdir runs/llamagen
    jaxtok sample --model runs/llamagen --class "flags noto" --class 3 --guidance 2 --output grid.png

paper: LlamaGen-L, 342.91 M parameters, on 16 x 16 codes of 16,384 of ImageNet at 256 x 256, 300 epochs of batch 256;
the paper reports FID 3.80 with guidance 2. Its images are read in ten crops and mirrored, ours in the middle and
mirrored. mini: 3.06 M parameters on the 8 x 8 codes of fvq:mini, emoji of 36 classes (9 groups x 4 styles), at most 17
minutes on 2 cores; expect the asked class in 16 % of the samples (chance 2.8 %) and a Frechet distance of 14 on the
judge's features. tiny: mean colours of patches in the tokens' place, so that it needs no tokenizer.
"""

import ml_collections

PAPER = dict(
    numbers=(),  # not in the reading list: the plain autoregressive generator beside its systems
    title="Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation",
    url="https://arxiv.org/abs/2406.06525",
    modality="image",
    family="generator (autoregressive)",
    status="generator from classes; from text to come",
)
EPOCH = 1_281_167 // 256  # steps


def get_config(arg: str = "paper") -> ml_collections.ConfigDict:
    """The config of a variant: "tiny" (seconds, for tests), "mini" (minutes on 2 cores), "paper"."""
    variants = {"tiny": tiny, "mini": mini, "paper": paper}
    if arg not in variants:
        raise ValueError(f"llamagen has no variant {arg!r}; known: {', '.join(variants)}")
    return variants[arg]()


def paper() -> ml_collections.ConfigDict:
    return config(
        variant="paper", depth=24, width=1024, heads=16, hidden=2816, scan=True, remat="nothing_saveable",
        dtype="bfloat16", classes=1000,
        source="tokens:/data/imagenet-tokens", **tokens(codes=16384, grid=(16, 16), tokenizer="", label="group"),
        guidance=2.0, steps=300 * EPOCH, warmup=0, batch_size=256, rate=1e-4, ema=0.0, every=(100, 5000, 4, 5000),
        after=(),
    )  # fmt: skip


def mini() -> ml_collections.ConfigDict:
    images = dict(target="jaxtok.data.images:Images", size=32, label="group_style")
    return config(
        variant="mini", depth=6, width=192, heads=6, hidden=512, scan=False, remat="", dtype="float32", classes=36,
        source="tokens:runs/fvq-tokens", **tokens(codes=1024, grid=(8, 8), tokenizer="runs/fvq", label="group_style"),
        guidance=2.0, steps=800, warmup=100, batch_size=64, rate=1e-3, ema=0.998, every=(20, 200, 4, 400),
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
        guidance=2.0, steps=2, warmup=0, batch_size=8, rate=1e-3, ema=0.9, every=(1, 2, 1, 2), after=(),
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
    guidance, steps, warmup, batch_size, rate, ema, every, after,
) -> ml_collections.ConfigDict:  # fmt: skip
    """One table of hyper-parameters; the variants differ in numbers alone."""
    log_every, evaluate_every, evaluate_batches, checkpoint_every = every
    schedule = dict(target="jaxtok.train.schedules:constant", value=rate, warmup=warmup)
    return ml_collections.ConfigDict(dict(
        slug="llamagen",
        variant=variant,
        seed=0,
        model=dict(
            target="jaxtok.nn.token_transformer:CausalCodes", codes=codes, classes=classes, grid=grid, depth=depth,
            width=width, heads=heads, hidden=hidden, dropout=0.1, scan=scan, remat=remat, dtype=dtype,
        ),
        task=dict(target="jaxtok.tasks.generate_ar:GenerateAR", label_drop=0.1),
        interface=dict(ref="jaxtok.models.generator:assemble"),
        tokenizer=tokenizer,  # the directory of the tokenizer's run
        shape=(*grid, 1),  # of one sample
        sampling=dict(
            target="jaxtok.tasks.generate_ar:ARSampling", temperature=1.0, top_k=0, top_p=1.0, guidance=guidance,
            scale="constant",
        ),
        data=dict(source=source, examples=examples, window=16, workers=0, prefetch=2, max_corrupt=0.01),
        train=dict(
            steps=steps, batch_size=batch_size, accumulate=1, ema=ema,
            mesh=dict(data=-1, fsdp=1, tensor=1),
            sharding=(),
            players=dict(main=dict(
                pattern=".*", start=0, period=1, clip=1.0,
                optimizer=dict(
                    target="jaxtok.train.optimizers:adamw", b1=0.9, b2=0.95, weight_decay=0.05,
                    decay=r"(.*/)?(kernel|embedding)", schedule=schedule,
                ),
            )),
            log_every=log_every, evaluate_every=evaluate_every, evaluate_batches=evaluate_batches,
            checkpoint_every=checkpoint_every, keep_last=2,
        ),
        after=after,
    ))  # fmt: skip
