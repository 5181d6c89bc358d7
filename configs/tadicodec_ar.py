"""TaDiCodec's autoregressive model: from text to its tokens, one after another (arXiv 2508.16790).

    jaxtok train --config configs/tadicodec.py:mini --workdir runs/tadicodec        # the tokenizer
    jaxtok train --config configs/tadicodec_ar.py:mini --workdir runs/ar
    jaxtok sample --model runs/ar --text "good morning" --prompt voice.wav --prompt-text "its words" --output out.wav

paper: the network of Qwen2.5-0.5B with a token for each code, the start and the end of speech, 508.47 M parameters; the
paper reports WER 3.88 in English, and 2.28 with 4 B parameters. It begins from random weights and reads the plain text,
where the released one begins from the language model and reads a chat template. mini: 4.97 M parameters on the
tokens of tadicodec:mini, made on the fly of the shipped speech; half an hour on one core. Expect 4.5 nats a code (4.6
with another's text, 7.5 by frequency; on `tadicodec-mini`), and speech-like babble.
tiny: loudness in the tokens' place, so that it needs no tokenizer.
"""

import ml_collections

PAPER = dict(
    numbers=(1,),
    title="TaDiCodec: the autoregressive model on its tokens",
    url="https://arxiv.org/abs/2508.16790",
    modality="speech",
    family="generator (autoregressive, text to speech)",
    status="training and sampling; released weights to come",
)


def get_config(arg: str = "paper") -> ml_collections.ConfigDict:
    """The config of a variant: "tiny" (seconds, for tests), "mini" (minutes on 2 cores), "paper"."""
    variants = {"tiny": tiny, "mini": mini, "paper": paper}
    if arg not in variants:
        raise ValueError(f"tadicodec_ar has no variant {arg!r}; known: {', '.join(variants)}")
    return variants[arg]()


def paper() -> ml_collections.ConfigDict:
    return config(
        variant="paper", codes=16384, width=896, depth=24, heads=14, kv_heads=2, hidden=4864, text_ids=151_665,
        qkv_bias=True, theta=1e6, least=12, scan=True, remat="nothing_saveable", dtype="bfloat16",
        source="tokens:/data/emilia-tokens", **tokens(tokenizer="", stored=True),
        text=dict(target="jaxtok.text.subword:Subword", path="/data/qwen2.5/tokenizer.json"),
        seconds=(10.0, 40.0), buckets=((10.24, 160), (20.48, 320), (40.0, 512)), words=1,
        steps=800_000, batch_size=512, ema=0.0,  # our choice: this model's schedule was not published
        schedule=dict(target="jaxtok.train.schedules:cosine", peak=1e-4, warmup=32_000, steps=800_000),
        every=(100, 5000, 4, 5000), after=(),
    )  # fmt: skip


def mini() -> ml_collections.ConfigDict:
    return config(
        variant="mini", codes=16384, width=192, depth=4, heads=3, kv_heads=3, hidden=512, text_ids=259,
        qkv_bias=False, theta=1e4, least=4, scan=False, remat="", dtype="float32",
        source="samples:speech", **tokens(tokenizer="runs/tadicodec", stored=False),
        text=dict(target="jaxtok.text.bytes:Bytes"),
        seconds=(2.0, 4.8), buckets=((4.8, 128),), words=4,
        steps=600, batch_size=8, ema=0.99,
        schedule=dict(target="jaxtok.train.schedules:cosine", peak=1e-3, warmup=100, steps=600),
        every=(20, 200, 4, 300), after=(dict(ref="jaxtok.evaluation.speech_generator:write"),),
    )  # fmt: skip


def tiny() -> ml_collections.ConfigDict:
    return config(
        variant="tiny", codes=16, width=32, depth=2, heads=2, kv_heads=1, hidden=64, text_ids=259,
        qkv_bias=True, theta=1e4, least=2, scan=True, remat="", dtype="float32",
        source="samples:speech", tokenizer="", made=dict(target="jaxtok.data.loudness:Loudness", levels=16), task={},
        text=dict(target="jaxtok.text.bytes:Bytes"),
        seconds=(1.6, 1.6), buckets=((1.6, 64),), words=1,
        steps=2, batch_size=8, ema=0.9,
        schedule=dict(target="jaxtok.train.schedules:constant", value=1e-3),
        every=(1, 2, 1, 2), after=(),
    )  # fmt: skip


def tokens(*, tokenizer, stored):
    """What `jaxtok encode` stored, other tokenizers' tokens being refused; or tokens made of each batch's speech."""
    run = ml_collections.FieldReference(tokenizer)  # --config.tokenizer moves both
    if not stored:
        task = dict(target="jaxtok.tasks.on_the_fly:OnTheFly", tokenizer=run)
        return dict(tokenizer=run, made=dict(target="jaxtok.data.speech:Utterances"), task=task)
    mark = dict(target="jaxtok.fingerprint:of_run", run=run)
    made = dict(target="jaxtok.data.token_sequences:TokenSequences", codebook=16384, fingerprint=mark)
    return dict(tokenizer=run, made=made, task={})


def config(
    *, variant, codes, width, depth, heads, kv_heads, hidden, text_ids, qkv_bias, theta, least, scan, remat, dtype,
    source, tokenizer, made, task, text, seconds, buckets, words, steps, batch_size, ema, schedule, every, after,
) -> ml_collections.ConfigDict:  # fmt: skip
    """One table of hyper-parameters; the variants differ in numbers alone."""
    log_every, evaluate_every, evaluate_batches, checkpoint_every = every
    name = "jaxtok.tasks.speak_ar:SpeakAR"
    return ml_collections.ConfigDict(dict(
        slug="tadicodec_ar",
        variant=variant,
        seed=0,
        model=dict(
            target="jaxtok.nn.llama:LlamaLM", vocabulary=text_ids + codes + 2, width=width, depth=depth, heads=heads,
            kv_heads=kv_heads, hidden=hidden, qkv_bias=qkv_bias, tied=True, theta=theta, scan=scan, remat=remat,
            dtype=dtype,
        ),
        task=dict(task, task=dict(ref=name, codes=codes)) if task else dict(target=name, codes=codes),
        interface=dict(ref="jaxtok.models.speech_generator:assemble"),
        tokenizer=tokenizer,  # the directory of the tokenizer's run
        sampling=dict(
            target="jaxtok.tasks.speak_ar:SpeakARSampling", temperature=1.0, top_k=50, top_p=0.98, least=least,
            most=400,
        ),
        decoding=dict(steps=25, guidance=1.0),  # of the tokenizer's decoder
        text=text,
        data=dict(
            source=source,
            examples=dict(**made, rate=24000, multiple=8 * 480, seconds=seconds, buckets=buckets, text=text),
            languages=(),
            evaluation=dict(languages=(), words=words, seconds=0.0),
            window=16, workers=0, prefetch=2, max_corrupt=0.01,
        ),
        train=dict(
            steps=steps, batch_size=batch_size, accumulate=1, ema=ema,
            mesh=dict(data=-1, fsdp=1, tensor=1),
            sharding=(),
            players=dict(main=dict(
                pattern=".*", start=0, period=1, clip=1.0,
                optimizer=dict(target="jaxtok.train.optimizers:adamw", weight_decay=0.01, schedule=schedule),
            )),
            log_every=log_every, evaluate_every=evaluate_every, evaluate_batches=evaluate_batches,
            checkpoint_every=checkpoint_every, keep_last=2,
        ),
        after=after,
    ))  # fmt: skip
