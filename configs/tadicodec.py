"""TaDiCodec: Text-aware Diffusion Speech Tokenizer for Speech Language Modeling (arXiv 2508.16790).

    jaxtok train --config configs/tadicodec.py:mini --workdir runs/first      # about 10 minutes on 2 CPU cores
    jaxtok compile --config configs/tadicodec.py:paper --topology v5e:4x4 --mesh data=4,fsdp=4

paper: 495.77 M parameters, 87.5 bit/s, Emilia (about 100k hours), 800k steps; the paper reports WER 3.02, speaker
similarity 0.67, UTMOS 3.68 with true text. mini: 2.37 M parameters; expect a mel distance near 1.2 nats for the mean of
8 samples (mean frame 1.7, untrained 2.2), a little less with the right text, and rhythm rather than words.
"""

import ml_collections

PAPER = dict(
    numbers=(1,),
    title="TaDiCodec: Text-aware Diffusion Speech Tokenizer for Speech Language Modeling",
    url="https://arxiv.org/abs/2508.16790",
    modality="speech",
    family="tokenizer with diffusion decoder",
    status="tokenizer complete; its generators are `tadicodec_mgm` and `tadicodec_ar`",
)


def get_config(arg: str = "paper") -> ml_collections.ConfigDict:
    """The config of a variant: "tiny" (seconds, for tests), "mini" (minutes on 2 cores), "paper"."""
    variants = {"tiny": tiny, "mini": mini, "paper": paper}
    if arg not in variants:
        raise ValueError(f"tadicodec has no variant {arg!r}; known: {', '.join(variants)}")
    return variants[arg]()


def paper() -> ml_collections.ConfigDict:
    return config(
        variant="paper", width=1024, heads=16, hidden=4096, depths=(8, 16), vocabulary=32100, norm_init="reference",
        scan=True, remat="nothing_saveable", dtype="bfloat16",
        # Emilia, packed by `jaxtok data pack`; text by the vocabulary that comes with the released weights.
        source="arrayrecord:/data/emilia",
        text=dict(target="jaxtok.text.subword:Subword", path="/data/tadicodec/text_tokenizer/tokenizer.json"),
        seconds=(10.0, 40.0), buckets=((10.24, 160), (20.48, 320), (40.0, 512)), words=1,
        steps=800_000, batch_size=256, ema=0.0, drops=(0.2, 0.0), window=(40.0, 4.0),
        entropy=dict(entropy=1.0, group=1, temperature=1.0),
        schedule=dict(target="jaxtok.train.schedules:inverse_sqrt", peak=7.5e-5, warmup=32_000),
    )  # fmt: skip


def mini() -> ml_collections.ConfigDict:
    return config(
        variant="mini", width=128, heads=2, hidden=384, depths=(3, 5), vocabulary=259, norm_init="stable",
        scan=False, remat="", dtype="float32",
        source="samples:speech", text=dict(target="jaxtok.text.bytes:Bytes"),
        seconds=(4.0, 4.8), buckets=((4.8, 128),), words=4,
        steps=800, batch_size=8, ema=0.99, drops=(0.1, 0.1), window=(12.8, 1.28),
        # Entropy over groups of 7 bits at a harder temperature: with the paper's weak term a short run used 27 codes.
        entropy=dict(entropy=0.2, group=7, temperature=8.0),
        schedule=dict(target="jaxtok.train.schedules:cosine", peak=1e-3, warmup=100, steps=800),
    )  # fmt: skip


def tiny() -> ml_collections.ConfigDict:
    return config(
        variant="tiny", width=32, heads=2, hidden=64, depths=(1, 2), vocabulary=259, norm_init="stable",
        scan=True, remat="", dtype="float32",
        source="samples:speech", text=dict(target="jaxtok.text.bytes:Bytes"),
        seconds=(3.2, 3.2), buckets=((3.2, 128),), words=1,
        steps=2, batch_size=8, ema=0.9, drops=(0.2, 0.0), window=(2.56, 0.32),
        entropy=dict(entropy=1.0, group=1, temperature=1.0),
        schedule=dict(target="jaxtok.train.schedules:inverse_sqrt", peak=1e-3, warmup=1),
    )  # fmt: skip


def config(
    *, variant, width, heads, hidden, depths, factor=8, vocabulary, norm_init, scan, remat, dtype, source, text,
    seconds, buckets, words, steps, batch_size, ema, drops, window, entropy, schedule,
) -> ml_collections.ConfigDict:  # fmt: skip
    """One table of hyper-parameters; the variants differ in numbers alone."""
    size = dict(width=width, heads=heads, hidden=hidden, scan=scan, remat=remat, dtype=dtype)
    frontend = dict(target="jaxtok.signal.mel:MelFrontEnd")  # 24 kHz, hop 480: 50 frames a second, 128 bands
    return ml_collections.ConfigDict(dict(
        slug="tadicodec",
        variant=variant,
        seed=0,
        model=dict(
            target="jaxtok.tokenizers.diffusion:DiffusionTokenizer",
            encoder=dict(target="jaxtok.papers.tadicodec:Encoder", depth=depths[0], bits=14, factor=factor, **size),
            quantizer=dict(target="jaxtok.quantizers.bsq:BSQ", bits=14, **entropy),
            decoder=dict(
                target="jaxtok.papers.tadicodec:PrefixDecoder", depth=depths[1], vocabulary=vocabulary, factor=factor,
                norm_init=norm_init, **size,
            ),
        ),
        # What jaxtok.load puts around the module; longer recordings are encoded in windows that overlap by 2 context.
        frontend=frontend,
        text=text,
        vocoder=dict(target="jaxtok.signal.griffin_lim:GriffinLim", frontend=frontend),
        window=dict(seconds=window[0], context=window[1]),
        task=dict(
            target="jaxtok.tasks.autoencode:SpeechFlow", frontend=frontend,
            prompt_rate=0.8, prompt_share=0.4, code_drop=drops[0], text_drop=drops[1],
        ),
        interface=dict(ref="jaxtok.models.speech:assemble"),
        data=dict(
            source=source,
            examples=dict(
                target="jaxtok.data.speech:Utterances", rate=24000, multiple=factor * 480, seconds=seconds,
                buckets=buckets, text=text,
            ),
            languages=(),
            evaluation=dict(languages=(), words=words, seconds=0.0),
            window=16, workers=0, prefetch=2, max_corrupt=0.01,
        ),
        train=dict(
            steps=steps, batch_size=batch_size, accumulate=1, ema=ema,
            mesh=dict(data=-1, fsdp=1, tensor=1),
            sharding=(),
            players=dict(main=dict(
                pattern=".*", start=0, period=1, clip=0.5,
                optimizer=dict(target="jaxtok.train.optimizers:adamw", weight_decay=0.01, schedule=schedule),
            )),
            log_every=10, evaluate_every=250, evaluate_batches=4, checkpoint_every=500, keep_last=2,
        ),
        after=(dict(ref="jaxtok.tasks.speech_evaluation:write"),),
    ))  # fmt: skip
