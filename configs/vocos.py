"""Vocos: Closing the gap between time-domain and Fourier-based neural vocoders (arXiv 2306.00814).

    jaxtok train --config configs/vocos.py:mini --workdir runs/vocos
    jaxtok compile --config configs/vocos.py:paper --topology v5e:4x4 --mesh data=16,fsdp=1

paper: 13.53 M parameters of the generator and 42.52 M of the discriminators, LibriTTS, 1M steps of 16 crops of 0.68 s.
The numbers are those of the released training configuration, where the article differs (it gives a learning rate of
2e-4 with betas 0.9, 0.999 and UnivNet's magnitude spectrograms in place of the bands: `multi_resolution`). Frames are
centred on their hop. The released vocos-mel-24khz has them on its edge, and loads after

    jaxtok convert --family vocos --config vocos:paper,model.padding=center,task.frontend.padding=center ...

tadicodec: this training for the network behind the released TaDiCodec, 255.04 M parameters, whose weights load after
`jaxtok convert --family vocos --config vocos:tadicodec ...`. Any vocoder of a tokenizer's mel takes its place behind it
by `model.replace(vocoder=jaxtok.load(...))`.

mini: TaDiCodec's front end, DAC's mel distances, few discriminators; 17 minutes on 2 cores. Expect a mel distance of
0.29 nats and PESQ 2.1; Griffin-Lim has 0.12 and 2.8 from the same mel, which is why it serves small tokenizers.
"""

import ml_collections

PAPER = dict(
    numbers=(),  # not in the reading list: the vocoder of its speech systems
    title="Vocos: Closing the gap between time-domain and Fourier-based neural vocoders",
    url="https://arxiv.org/abs/2306.00814",
    modality="audio",
    family="vocoder (adversarial)",
    status="vocoder and its training complete",
)


def get_config(arg: str = "paper") -> ml_collections.ConfigDict:
    """The config of a variant: "tiny" (seconds, for tests), "mini" (minutes on 2 cores), "paper", "tadicodec"."""
    variants = {"tiny": tiny, "mini": mini, "paper": paper, "tadicodec": tadicodec}
    if arg not in variants:
        raise ValueError(f"vocos has no variant {arg!r}; known: {', '.join(variants)}")
    return variants[arg]()


def paper() -> ml_collections.ConfigDict:
    return full(variant="paper", width=512, hidden=1536, depth=8, frontend=VOCOS, crop=16384)


def tadicodec() -> ml_collections.ConfigDict:
    return full(variant="tadicodec", width=1024, hidden=4096, depth=30, frontend=TADICODEC, crop=15360)


def full(**network) -> ml_collections.ConfigDict:
    return config(
        **network,
        periods=(2, 3, 5, 7, 11), channels=(32, 128, 512, 1024, 1024),
        bands=dict(n_ffts=(2048, 1024, 512), channels=32, edges=(0.0, 0.1, 0.25, 0.5, 0.75, 1.0)),
        source="arrayrecord:/data/libritts", buckets=((2.56, 128), (5.12, 192), (10.24, 320), (20.48, 512)),
        steps=1_000_000, batch_size=16,
        schedule=dict(target="jaxtok.train.schedules:cosine", peak=5e-4, steps=1_000_000),
        every=(100, 5000, 8, 5000),
    )  # fmt: skip


def mini() -> ml_collections.ConfigDict:
    return config(
        variant="mini", width=256, hidden=768, depth=6, frontend=TADICODEC,
        periods=(2, 3, 5), channels=(8, 16, 32, 64, 64), bands=None,
        reconstruction=dict(**MEL, scales=dict(ref="jaxtok.losses.spectral:DAC"), log_base=10.0), weight=15.0,
        source="samples:speech", buckets=((5.12, 192),), crop=15360, steps=3000, batch_size=16,
        schedule=dict(target="jaxtok.train.schedules:cosine", peak=1e-3, warmup=50, steps=3000),
        every=(20, 500, 4, 500),
    )  # fmt: skip


def tiny() -> ml_collections.ConfigDict:
    return config(
        variant="tiny", width=16, hidden=24, depth=1, frontend=VOCOS,
        periods=(2,), channels=(4, 8), bands=dict(n_ffts=(512,), channels=2, edges=(0.0, 1.0)),
        source="samples:speech", buckets=((2.56, 128),), crop=2048, steps=2, batch_size=8,
        schedule=dict(target="jaxtok.train.schedules:constant", value=1e-3),
        every=(1, 2, 1, 2),
    )  # fmt: skip


# What a vocoder hears: the paper's mel, and TaDiCodec's, of 128 bands in 50 frames a second.
VOCOS = dict(
    target="jaxtok.signal.log_mel:LogMel", sample_rate=24000, n_fft=1024, hop=256, bands=100, padding="same"
)  # fmt: skip
TADICODEC = dict(target="jaxtok.signal.mel:MelFrontEnd", sample_rate=24000, n_fft=1920, hop=480, bands=128)
MEL = dict(ref="jaxtok.losses.spectral:mel")  # the paper's distance


def config(
    *, variant, width, hidden, depth, frontend, periods, channels, bands, reconstruction=MEL, weight=45.0, source,
    buckets, crop, steps, batch_size, schedule, every,
) -> ml_collections.ConfigDict:  # fmt: skip
    """One table of hyper-parameters; the variants differ in numbers alone."""
    ensembles = dict(period=dict(target="jaxtok.nn.discriminators:multi_period", periods=periods, channels=channels))
    if bands:
        ensembles["band"] = dict(target="jaxtok.nn.discriminators:multi_band", **bands)
    size = dict(bands=frontend["bands"], n_fft=frontend["n_fft"], hop=frontend["hop"], padding="same")
    # Weight decay is PyTorch's 0.01 on everything.
    optimizer = dict(
        target="jaxtok.train.optimizers:adamw", b1=0.8, b2=0.9, weight_decay=0.01, decay=".*", schedule=schedule
    )
    return ml_collections.ConfigDict(dict(
        slug="vocos",
        variant=variant,
        seed=0,
        model=dict(target="jaxtok.nn.vocos:Vocos", width=width, hidden=hidden, depth=depth, **size),
        task=dict(
            target="jaxtok.tasks.vocode:Vocode", frontend=frontend,
            discriminator=dict(target="jaxtok.nn.discriminators:Panel", ensembles=ensembles),
            weights={name: {"period": 1.0, "band": 0.1}[name] for name in ensembles},
            reconstruction=reconstruction, weight=weight, matching=1.0, first=1, criterion="clipped_hinge", start=0,
            crop=crop, peak=(-6.0, -1.0),
        ),
        interface=dict(ref="jaxtok.models.vocoder:assemble"),
        data=dict(
            source=source,
            # Recordings one by one; of each a crop is drawn. The transcripts are not read.
            examples=dict(
                target="jaxtok.data.speech:Utterances", rate=frontend["sample_rate"], multiple=frontend["hop"],
                concatenate=False, seconds=(1.0, buckets[-1][0]), buckets=buckets,
            ),
            languages=(),
            evaluation=dict(languages=(), words=1, seconds=0.0),
            window=16, workers=0, prefetch=2, max_corrupt=0.01,
        ),
        train=dict(
            steps=steps, batch_size=batch_size, accumulate=1, ema=0.0,
            mesh=dict(data=-1, fsdp=1, tensor=1),
            sharding=(),
            players=dict(
                generator=dict(pattern="generator/.*", optimizer=optimizer),
                discriminator=dict(pattern="discriminator/.*", start=0, optimizer=optimizer),
            ),
            log_every=every[0], evaluate_every=every[1], evaluate_batches=every[2], checkpoint_every=every[3],
            keep_last=2,
        ),
        after=(dict(ref="jaxtok.tasks.vocode_report:write"),),
    ))  # fmt: skip
