"""TaDiCodec's masked generative model: from text to its tokens, many at a time (arXiv 2508.16790).

    jaxtok train --config configs/tadicodec.py:mini --workdir runs/tadicodec        # the tokenizer
    jaxtok train --config configs/tadicodec_mgm.py:mini --workdir runs/mgm
    jaxtok sample --model runs/mgm --text "good morning" --prompt voice.wav --prompt-text "its words" --output out.wav

paper: 386.30 M parameters (the text's vocabulary is the tokenizer's 32,100 ids; that of the released model was not
seen), 25 steps, guidance 2.5; the paper reports WER 3.69 in English and 1.51 in Chinese. It learns from stored tokens,
and reads the plain text where the released model reads it in a chat template. mini: 9.05 M parameters on the
tokens of tadicodec:mini, made on the fly of the shipped speech; half an hour on one core. Expect 7.0 nats a masked code
(7.1 with another's text, 7.5 by frequency; on `tadicodec-mini`), and speech-like babble.
tiny: loudness in the tokens' place, so that it needs no tokenizer.
"""

import ml_collections

PAPER = dict(
    numbers=(1,),
    title="TaDiCodec: the masked generative model (MGM) on its tokens",
    url="https://arxiv.org/abs/2508.16790",
    modality="speech",
    family="generator (masked, text to speech)",
    status="training, sampling and released weights; their chat template to come",
)


def get_config(arg: str = "paper") -> ml_collections.ConfigDict:
    """The config of a variant: "tiny" (seconds, for tests), "mini" (minutes on 2 cores), "paper"."""
    variants = {"tiny": tiny, "mini": mini, "paper": paper}
    if arg not in variants:
        raise ValueError(f"tadicodec_mgm has no variant {arg!r}; known: {', '.join(variants)}")
    return variants[arg]()


def paper() -> ml_collections.ConfigDict:
    return config(
        variant="paper", codes=16384, width=1024, depth=16, heads=16, hidden=4096, vocabulary=32100,
        norm_init="reference", scan=True, remat="nothing_saveable", dtype="bfloat16",
        source="tokens:/data/emilia-tokens", **tokens(tokenizer="", stored=True),
        text=dict(target="jaxtok.text.subword:Subword", path="/data/tadicodec/text_tokenizer/tokenizer.json"),
        seconds=(10.0, 40.0), buckets=((10.24, 160), (20.48, 320), (40.0, 512)), words=1,
        steps=800_000, batch_size=512, ema=0.0,  # the schedule is the tokenizer's: this model's was not published
        schedule=dict(target="jaxtok.train.schedules:inverse_sqrt", peak=7.5e-5, warmup=32_000),
        every=(100, 5000, 4, 5000), after=(),
    )  # fmt: skip


def mini() -> ml_collections.ConfigDict:
    return config(
        variant="mini", codes=16384, width=192, depth=4, heads=3, hidden=512, vocabulary=259,
        norm_init="stable", scan=False, remat="", dtype="float32",
        source="samples:speech", **tokens(tokenizer="runs/tadicodec", stored=False),
        text=dict(target="jaxtok.text.bytes:Bytes"),
        seconds=(2.0, 4.8), buckets=((4.8, 128),), words=4,
        steps=600, batch_size=8, ema=0.99,
        schedule=dict(target="jaxtok.train.schedules:cosine", peak=1e-3, warmup=100, steps=600),
        every=(20, 200, 4, 300), after=(dict(ref="jaxtok.evaluation.speech_generator:write"),),
    )  # fmt: skip


def tiny() -> ml_collections.ConfigDict:
    return config(
        variant="tiny", codes=16, width=32, depth=2, heads=2, hidden=64, vocabulary=259,
        norm_init="stable", scan=True, remat="", dtype="float32",
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
    *, variant, codes, width, depth, heads, hidden, vocabulary, norm_init, scan, remat, dtype, source, tokenizer, made,
    task, text, seconds, buckets, words, steps, batch_size, ema, schedule, every, after,
) -> ml_collections.ConfigDict:  # fmt: skip
    """One table of hyper-parameters; the variants differ in numbers alone."""
    log_every, evaluate_every, evaluate_batches, checkpoint_every = every
    training = dict(prompt_rate=0.8, prompt_share=0.4, text_drop=0.5, least=0.2)
    name = "jaxtok.tasks.speak_masked:SpeakMasked"
    return ml_collections.ConfigDict(dict(
        slug="tadicodec_mgm",
        variant=variant,
        seed=0,
        model=dict(
            target="jaxtok.papers.tadicodec_mgm:MaskedSpeech", codes=codes, vocabulary=vocabulary, width=width,
            depth=depth, heads=heads, hidden=hidden, norm_init=norm_init, scan=scan, remat=remat, dtype=dtype,
        ),
        task=dict(task, task=dict(ref=name, **training)) if task else dict(target=name, **training),
        interface=dict(ref="jaxtok.models.speech_generator:assemble"),
        tokenizer=tokenizer,  # the directory of the tokenizer's run
        sampling=dict(
            target="jaxtok.tasks.speak_masked:SpeakMaskedSampling", steps=25, guidance=2.5, rescale=0.75,
            temperature=0.9, top_share=0.02, choice=1.0,
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
                pattern=".*", start=0, period=1, clip=0.5,
                optimizer=dict(target="jaxtok.train.optimizers:adamw", weight_decay=0.01, schedule=schedule),
            )),
            log_every=log_every, evaluate_every=evaluate_every, evaluate_batches=evaluate_batches,
            checkpoint_every=checkpoint_every, keep_last=2,
        ),
        after=after,
    ))  # fmt: skip
