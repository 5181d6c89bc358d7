"""WavTokenizer: an Efficient Acoustic Discrete Codec Tokenizer for Audio Language Modeling (arXiv 2408.16532).

    jaxtok train --config configs/wavtokenizer.py:mini --workdir runs/wavtokenizer
    jaxtok compile --config configs/wavtokenizer.py:paper --topology v5e:4x4 --mesh data=16,fsdp=1

paper: 40 tokens a second of 12 bits, 480 bit/s, at 24 kHz: 8.30 M parameters of the encoder, 63.81 M of the decoder,
84.25 M of the discriminators; LibriTTS, 1M steps of 320 crops of 3 s. paper75: 75 tokens a second, 900 bit/s. The
repository's figure has UTMOS near 3.6 and 4.05 (recordings 4.06). Numbers are the released configurations'. Different
here: both players move at once and the codebook once a step; the encoder's kernels are plain (released ones fold); and
k-means begins the moving sums with centroids times counts, where the release forgets the counts.

mini: 75 tokens a second of 8 bits, half an hour on 2 cores. Expect a mel distance of 0.83 nats on the test split (1.82
untrained) with nearly all codes in use: `wavtokenizer-mini`.
"""

import math

import ml_collections

PAPER = dict(
    numbers=(53,),
    title="WavTokenizer: an Efficient Acoustic Discrete Codec Tokenizer for Audio Language Modeling",
    url="https://arxiv.org/abs/2408.16532",
    modality="audio",
    family="tokenizer (one codebook, adversarial)",
    status="tokenizer and its training complete; a small one ships, `wavtokenizer-mini`",
)


def get_config(arg: str = "paper") -> ml_collections.ConfigDict:
    """The config of a variant: "tiny" (seconds, for tests), "mini" (minutes on 2 cores), "paper", "paper75"."""
    variants = {"tiny": tiny, "mini": mini, "paper": paper, "paper75": lambda: paper("paper75", (2, 4, 5, 8))}
    if arg not in variants:
        raise ValueError(f"wavtokenizer has no variant {arg!r}; known: {', '.join(variants)}")
    return variants[arg]()


def paper(variant="paper", strides=(4, 5, 5, 6)) -> ml_collections.ConfigDict:
    return config(
        variant=variant, strides=strides, channels=32, dimension=512, width=768, hidden=2304, depth=12, groups=32,
        # A batch moves the released codebook at both players' turns; its revival of rare codes is undone at once: none.
        codebook=dict(size=4096, decay=0.99**2, kmeans=200, revive=0.0), edges=(0.0, 0.1, 0.25, 0.5, 0.75, 1.0),
        periods=(2, 3, 5, 7, 11), layers=(32, 128, 512, 1024, 1024), n_ffts=(1024, 2048, 512), maps=(64, 32),
        source="arrayrecord:/data/libritts", seconds=(3.0, 6.0, 12.0, 24.0), crop=72000,
        steps=1_000_000, batch_size=320, peak=2e-4, every=(100, 5000, 8, 5000),
    )  # fmt: skip


def mini() -> ml_collections.ConfigDict:
    return config(
        variant="mini", strides=(2, 4, 5, 8), channels=8, dimension=64, width=128, hidden=384, depth=4, groups=8,
        # 240 tokens a batch. Without both of gain and standardized channels the decoder read no token in 300 steps.
        gain=2.0, standardized=True, codebook=dict(size=256, decay=0.95, kmeans=20, revive=0.2, commitment=0.25),
        mels=dict(**MEL, scales=dict(ref="jaxtok.losses.spectral:DAC"), log_base=10.0),
        weight=15.0, edges=(0.0, 0.1, 0.25, 0.5, 0.75, 1.0),
        periods=(2, 3, 5), layers=(8, 16, 32, 64, 64), n_ffts=(1024, 512), maps=(8, 8),
        source="samples:speech,samples:sounds", seconds=(10.8,), crop=9600,
        steps=3000, start=2000, batch_size=8, peak=1e-3, clip=1.0, every=(20, 500, 4, 500),
    )  # fmt: skip


def tiny() -> ml_collections.ConfigDict:
    return config(
        variant="tiny", strides=(600,), channels=2, dimension=4, width=8, hidden=8, depth=1, groups=2,
        codebook=dict(size=8, decay=0.99, kmeans=2, revive=0.2),
        periods=(2,), layers=(2,), n_ffts=(512,), maps=(2, 2), edges=(0.0, 1.0),
        source="samples:speech", seconds=(2.55,), crop=2400, steps=4, batch_size=8, peak=1e-3, every=(1, 2, 1, 2),
    )  # fmt: skip


MEL = dict(ref="jaxtok.losses.spectral:mel")  # the paper's distance


def config(
    *, variant, strides, channels, dimension, width, hidden, depth, groups, codebook, periods, layers, n_ffts, maps,
    edges, source, seconds, crop, steps, batch_size, peak, every,
    gain=1.0, standardized=False, mels=MEL, weight=45.0, start=0, clip=0.0,
) -> ml_collections.ConfigDict:  # fmt: skip
    """One table of hyper-parameters; the variants differ in numbers alone."""
    rate, hop, term = 24000, math.prod(strides), "jaxtok.tasks.waveform:Term"
    quantizer = dict(target="jaxtok.quantizers:EMAVQ", width=dimension, commitment=1000.0) | codebook  # a mean's weight
    if standardized:
        quantizer = dict(target="jaxtok.quantizers:Standardized", width=dimension, inner=quantizer)

    def player(name, begin):  # AdamW as PyTorch has it: weight decay 0.01 on everything
        schedule = dict(target="jaxtok.train.schedules:cosine", peak=peak, steps=steps - begin)
        optimizer = dict(target="jaxtok.train.optimizers:adamw", weight_decay=0.01, decay=".*", schedule=schedule)
        return dict(pattern=f"{name}/.*", start=begin, clip=clip, optimizer=optimizer)

    return ml_collections.ConfigDict(dict(
        slug="wavtokenizer", variant=variant, seed=0, rate=rate,
        model=dict(
            target="jaxtok.tokenizers.waveform:WaveformTokenizer", conditional=True,
            encoder=dict(
                target="jaxtok.nn.seanet:Encoder", dimension=dimension, width=channels, strides=strides, causal=False,
                gain=gain,
            ),
            quantizer=quantizer,
            decoder=dict(
                target="jaxtok.papers.wavtokenizer:Decoder", dimension=dimension, width=width, hidden=hidden,
                depth=depth, n_fft=4 * hop, hop=hop, bandwidths=4, groups=groups, rate=0.1,
            ),
        ),
        task=dict(
            target="jaxtok.tasks.autoencode_audio:AudioAutoencode", weight=weight, crop=crop, bandwidths=4,
            reconstruction=mels,
            discriminator=dict(target="jaxtok.papers.wavtokenizer:panel", periods=periods, layers=layers,
                               n_ffts=n_ffts, maps=maps, edges=edges),
            terms=dict(
                period=dict(target=term, criterion="clipped_hinge", first=1),
                resolution=dict(target=term, criterion="clipped_hinge", first=0),
                dac=dict(  # a sum over its members, not a mean
                    target=term, criterion="least_squares", first=0, logits=False, weight=1.0 * len(periods + n_ffts)
                ),
            ),
        ),
        interface=dict(ref="jaxtok.models.audio:assemble"), window=dict(seconds=60.0, context=5.0),
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
