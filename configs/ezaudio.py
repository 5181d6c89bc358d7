"""EzAudio: Enhancing Text-to-Audio Generation with Efficient Diffusion Transformer (arXiv 2409.10819): its VAE.

    jaxtok train --config configs/ezaudio.py:mini --workdir runs/ezaudio
    jaxtok compile --config configs/ezaudio.py:paper --topology v5e:4x4 --mesh data=16,fsdp=1

paper: the waveform VAE at 24 kHz, 50 latents a second of 128 numbers: 43.83 M parameters (kernels are plain, where the
released ones are weight-normalised) and 1.87 M of the discriminators. Numbers are the released configuration's: STFT
loss at seven resolutions with A-weighting, KL 1e-4 (of twice the KL), EnCodec's STFT discriminators with 0.1 and 5 for
their features; its waveform L1 has weight 0. Not stated there, ours: batch and steps. Latents are drawn in training and
in the reference also when a generator reads them; here `encode` gives the mean. The transformer is not here.
"""

import math

import ml_collections

PAPER = dict(
    numbers=(63,),
    title="EzAudio: Enhancing Text-to-Audio Generation with Efficient Diffusion Transformer",
    url="https://arxiv.org/abs/2409.10819",
    modality="audio",
    family="tokenizer (continuous, adversarial)",
    status="the waveform VAE and its training; the generator to come",
)


def get_config(arg: str = "paper") -> ml_collections.ConfigDict:
    """The config of a variant: "tiny" (seconds, for tests), "mini" (minutes on 2 cores), "paper"."""
    variants = {"tiny": tiny, "mini": mini, "paper": paper}
    if arg not in variants:
        raise ValueError(f"ezaudio has no variant {arg!r}; known: {', '.join(variants)}")
    return variants[arg]()


def paper() -> ml_collections.ConfigDict:
    return config(
        variant="paper", channels=128, multipliers=(1, 2, 4, 8), strides=(2, 4, 6, 10), latent=128,
        sizes=(1280, 640, 320, 160, 80, 40, 20), n_ffts=(1280, 640, 320, 160, 80), filters=64,
        source="arrayrecord:/data/audio", seconds=(2.5, 5.0, 10.0), crop=12000,
        steps=1_000_000, batch_size=64, peak=1.5e-4, warmup=0.999, every=(100, 5000, 8, 5000),
    )  # fmt: skip


def mini() -> ml_collections.ConfigDict:
    return config(
        variant="mini", channels=8, multipliers=(1, 2, 4, 8), strides=(2, 4, 6, 10), latent=32,
        sizes=(1280, 640, 320, 160, 80, 40, 20), n_ffts=(1280, 640, 320), filters=8,
        source="samples:speech", seconds=(4.8,), crop=9600,
        steps=800, batch_size=8, peak=1e-3, warmup=0.99, every=(10, 200, 4, 400),
    )  # fmt: skip


def tiny() -> ml_collections.ConfigDict:
    return config(
        variant="tiny", channels=2, multipliers=(2,), strides=(480,), latent=4, sizes=(160, 80), n_ffts=(160,),
        filters=2, source="samples:speech", seconds=(2.56,), crop=2400,
        steps=4, batch_size=8, peak=1e-3, warmup=0.0, every=(1, 2, 1, 2),
    )  # fmt: skip


def config(
    *, variant, channels, multipliers, strides, latent, sizes, n_ffts, filters, source, seconds, crop, steps,
    batch_size, peak, warmup, every,
) -> ml_collections.ConfigDict:  # fmt: skip
    """One table of hyper-parameters; the variants differ in numbers alone."""
    rate, hop, members = 24000, math.prod(strides), len(n_ffts)
    network = dict(channels=channels, multipliers=multipliers, strides=strides, latent=latent)

    def optimizer(peak):  # weight decay as PyTorch has it, on everything
        schedule = dict(target="jaxtok.train.schedules:inverse_power", peak=peak, gamma=2e5, power=0.5, warmup=warmup)
        fields = dict(b1=0.8, b2=0.99, weight_decay=1e-3, decay=".*", schedule=schedule)
        return dict(target="jaxtok.train.optimizers:adamw", **fields)

    return ml_collections.ConfigDict(dict(
        slug="ezaudio", variant=variant, seed=0, rate=rate,
        model=dict(
            target="jaxtok.tokenizers.waveform:WaveformTokenizer",
            encoder=dict(target="jaxtok.nn.oobleck:Encoder", **network),
            quantizer=dict(  # the reference's KL lacks the factor 1/2
                target="jaxtok.quantizers:Gaussian", width=latent, weight=2e-4, reduction="position",
                log_variance=dict(ref="jaxtok.quantizers.gaussian:softplus"),
            ),
            decoder=dict(target="jaxtok.nn.oobleck:Decoder", **network),
        ),
        task=dict(
            target="jaxtok.tasks.autoencode_audio:AudioAutoencode", weight=1.0, crop=crop, peak=(),
            reconstruction=dict(
                ref="jaxtok.losses.spectral:stft_loss", resolutions=tuple((n, n // 4, n) for n in sizes), floor=1e-8,
                a_weighted=rate,
            ),
            discriminator=dict(target="jaxtok.nn.discriminators:Panel", ensembles=dict(
                stft=dict(target="jaxtok.nn.discriminators:multi_stft", n_ffts=n_ffts, channels=filters),
            )),
            # Sums over members of 0.1 times the adversarial term and 5 times the mean over five layers. What the
            # discriminators pay has the factor 0.1 as well, which Adam does not see.
            terms=dict(stft=dict(
                target="jaxtok.tasks.waveform:Term", criterion="hinge", first=0, logits=False, weight=0.1 * members,
                matching=10.0,
            )),
        ),
        interface=dict(ref="jaxtok.models.audio:assemble"), window=dict(seconds=60.0, context=1.0),
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
            players=dict(
                generator=dict(pattern="generator/.*", optimizer=optimizer(peak)),
                discriminator=dict(pattern="discriminator/.*", optimizer=optimizer(2 * peak)),
            ),
            log_every=every[0], evaluate_every=every[1], evaluate_batches=every[2], checkpoint_every=every[3],
        ),
        after=(dict(ref="jaxtok.tasks.audio_report:write"),),
    ))  # fmt: skip
