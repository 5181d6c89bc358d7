"""SQ-Codec, the scalar codec of SimpleSpeech 2 (arXiv 2408.13893), first of SimpleSpeech (arXiv 2406.02328).

    jaxtok train --config configs/sq_codec.py:mini --workdir runs/sq_codec
    jaxtok compile --config configs/sq_codec.py:paper --topology v5e:4x4 --mesh data=16,fsdp=1

paper: the packaged causal codec at 16 kHz, 50 frames a second of 36 ternary digits in 4 codes of 3^9: 2,853 bit/s,
23.48 M parameters with weight normalisation's (23.46 M here, where kernels are plain), and 42.52 M of the
discriminators. The article has 32 channels of 19 levels (steps=9, word=1). Adam at 2e-3 and 200k steps are published;
losses are not, so these are DAC's (arXiv 2306.06546): 15 times the mel distance at seven scales, least squares and
twice the features' distance, summed over its discriminators. The generator of SimpleSpeech 2 is not here.

mini: 50 frames a second of 4 codes of 9^4, 2,536 bit/s, an hour on one core, most of it after step 4,500, when the
discriminators begin. Expect a mel distance of 0.75 nats on the test split: `sq-codec-mini`.
"""

import math

import ml_collections

PAPER = dict(
    numbers=(20,),
    title="SimpleSpeech 2: Towards Simple and Efficient Text-to-Speech with Flow-based Scalar Latent Transformer "
    "Diffusion Models",
    url="https://arxiv.org/abs/2408.13893",
    modality="speech",
    family="tokenizer (scalar, causal, adversarial)",
    status="codec, training and streams; a small one ships, `sq-codec-mini`; the generator to come",
)


def get_config(arg: str = "paper") -> ml_collections.ConfigDict:
    """The config of a variant: "tiny" (seconds, for tests), "mini" (minutes on 2 cores), "paper"."""
    variants = {"tiny": tiny, "mini": mini, "paper": paper}
    if arg not in variants:
        raise ValueError(f"sq_codec has no variant {arg!r}; known: {', '.join(variants)}")
    return variants[arg]()


def paper() -> ml_collections.ConfigDict:
    return config(
        variant="paper", width=48, gain=1.0, latent=36, grid=1, word=9, strides=(2, 4, 4, 5), n_scales=7,
        periods=(2, 3, 5, 7, 11), layers=(32, 128, 512, 1024, 1024), n_ffts=(2048, 1024, 512), maps=32,
        edges=(0.0, 0.1, 0.25, 0.5, 0.75, 1.0),
        source="arrayrecord:/data/mls-en", seconds=(3.0, 6.0, 10.0), crop=16000,
        steps=200_000, batch_size=64, peak=2e-3, every=(100, 5000, 8, 5000),
    )  # fmt: skip


def mini() -> ml_collections.ConfigDict:
    return config(
        variant="mini", width=8, gain=2.0, latent=16, grid=4, word=4, strides=(2, 4, 4, 5), n_scales=7,
        periods=(2, 3, 5), layers=(8, 16, 32, 64, 64), n_ffts=(1024, 512), maps=8,
        edges=(0.0, 0.1, 0.25, 0.5, 0.75, 1.0),
        source="samples:speech", seconds=(4.8,), crop=6400,
        steps=6500, start=4500, batch_size=8, peak=2e-3, every=(20, 500, 4, 500),
    )  # fmt: skip


def tiny() -> ml_collections.ConfigDict:
    return config(
        variant="tiny", width=8, gain=1.0, latent=4, grid=9, word=2, strides=(160,), n_scales=2,
        periods=(2,), layers=(2, 4), n_ffts=(512,), maps=2, edges=(0.0, 1.0),
        source="samples:speech", seconds=(2.56,), crop=1280,
        steps=4, batch_size=8, peak=1e-3, every=(1, 2, 1, 2),
    )  # fmt: skip


def config(
    *, variant, width, gain, latent, grid, word, strides, n_scales, periods, layers, n_ffts, maps, edges, source,
    seconds, crop, steps, batch_size, peak, every, start=0,
) -> ml_collections.ConfigDict:  # fmt: skip
    """One table of hyper-parameters; the variants differ in numbers alone."""
    rate, pool = 16000, 2
    hop = pool * math.prod(strides)
    network = dict(latent=latent, width=width, gain=gain, strides=strides, pool=pool, look_ahead=2, causal=True)
    scales = tuple(  # DAC's: hop a quarter
        dict(target="jaxtok.signal.log_mel:LogMel", sample_rate=rate, n_fft=n_fft, hop=n_fft // 4, bands=bands,
             floor=1e-5, filters="slaney", padding="center")
        for n_fft, bands in tuple(zip((32, 64, 128, 256, 512, 1024, 2048), (5, 10, 20, 40, 80, 160, 320)))[:n_scales]
    )  # fmt: skip

    def player(name, begin):
        schedule = dict(target="jaxtok.train.schedules:cosine", peak=peak, steps=steps - begin)
        optimizer = dict(target="jaxtok.train.optimizers:adamw", b1=0.8, b2=0.99, weight_decay=0.0, schedule=schedule)
        return dict(pattern=f"{name}/.*", start=begin, optimizer=optimizer)

    return ml_collections.ConfigDict(dict(
        slug="sq_codec", variant=variant, seed=0, rate=rate,
        model=dict(
            target="jaxtok.papers.sq_codec:SQCodec",
            encoder=dict(target="jaxtok.nn.sq_codec:Encoder", **network),
            quantizer=dict(target="jaxtok.papers.sq_codec:Bounded", width=latent, steps=grid, word=word),
            decoder=dict(target="jaxtok.nn.sq_codec:Decoder", **network),
        ),
        task=dict(
            target="jaxtok.tasks.autoencode_audio:AudioAutoencode", weight=15.0, crop=crop,
            reconstruction=dict(ref="jaxtok.losses.spectral:mel", scales=scales, log_base=10.0),
            discriminator=dict(target="jaxtok.nn.discriminators:Panel", ensembles=dict(dac=dict(
                target="jaxtok.nn.discriminators:dac", periods=periods, n_ffts=n_ffts, channels=layers,
                band_channels=maps, edges=edges,
            ))),
            terms=dict(dac=dict(  # a sum over its members, not a mean
                target="jaxtok.tasks.waveform:Term", criterion="least_squares", first=0, logits=False, matching=2.0,
                weight=1.0 * len(periods + n_ffts),
            )),
            judge=dict(target="jaxtok.signal.mel:MelFrontEnd", sample_rate=rate, n_fft=1280, hop=320, high=8000.0),
        ),
        interface=dict(ref="jaxtok.models.audio:assemble"),
        data=dict(
            source=source, languages=(), evaluation=dict(languages=(), words=1, seconds=0.0),
            examples=dict(  # recordings one by one, of which crops are drawn; transcripts are not read
                target="jaxtok.data.speech:Utterances", rate=rate, multiple=hop, concatenate=False,
                seconds=(1.0, seconds[-1]), buckets=tuple((s, 512) for s in seconds),
            ),
            window=16, workers=0, prefetch=2, max_corrupt=0.01,
        ),
        train=dict(
            steps=steps, batch_size=batch_size, ema=0.0, mesh=dict(data=-1, fsdp=1, tensor=1), sharding=(),
            players=dict(generator=player("generator", 0), discriminator=player("discriminator", start)),
            log_every=every[0], evaluate_every=every[1], evaluate_batches=every[2], checkpoint_every=every[3],
        ),
        after=(dict(ref="jaxtok.tasks.audio_report:write"),),
    ))  # fmt: skip
