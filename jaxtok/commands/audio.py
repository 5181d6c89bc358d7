"""What ``jaxtok reconstruct``, ``encode``, ``decode`` and ``evaluate`` do with models of speech or of waveforms."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from safetensors.numpy import save

from jaxtok.commands import token_file
from jaxtok.commands.options import Options
from jaxtok.data import audio, recordings
from jaxtok.evaluation import codec as audio_evaluation
from jaxtok.evaluation import codec_runs
from jaxtok.files import write_whole
from jaxtok.metrics import codec
from jaxtok.model import load
from jaxtok.models.audio import AudioModel
from jaxtok.models.speech import SpeechModel
from jaxtok.models.tokens import Tokens
from jaxtok.models.vocoder import VocoderModel
from jaxtok.tasks import codec_report, report


def reconstruct(
    model: SpeechModel | AudioModel | VocoderModel, paths: Sequence[str], output: epath.Path, options: Options
) -> None:
    """Audio files to tokens and back, or of a vocoder to its mel and back; writes NAME.wav."""
    waves = _waves(model, paths)
    if isinstance(model, VocoderModel):
        _refuse(options)
        for path, wave in zip(paths, waves):
            target = output / f"{epath.Path(path).stem}.wav"
            try:
                again = model.reconstruct(wave)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
            audio.write_wav(target, again, model.rate)
            print(f"{path} -> {target}: {len(wave) / model.rate:.2f} s through its mel")
        return
    if isinstance(model, AudioModel):
        _refuse(options)
        tokens = model.encode(waves)
        decoded = model.decode(tokens)
    else:
        tokens, decoded = _sampled(model, waves, options)
    for path, wave, mask in zip(paths, decoded, tokens.mask):
        target = output / f"{epath.Path(path).stem}.wav"
        audio.write_wav(target, wave, model.rate)
        seconds = f"{len(wave) / model.rate:.2f} s"
        if _kind(model) == "codes":
            print(f"{path} -> {target}: {int(mask.sum())} tokens, {seconds}, {model.bitrate:.4g} bit/s")
        else:
            each = f"{model.token_rate:.4g} latents/s of {tokens.latents.shape[-1]} numbers"
            print(f"{path} -> {target}: {int(mask.sum())} latents, {seconds}, {each}")


def encode(model: SpeechModel | AudioModel, paths: Sequence[str], output: epath.Path) -> None:
    """Audio files to NAME.safetensors with ``codes`` int32 [N, Q], or ``latents`` float32 [N, D], and ``samples``."""
    kind = _kind(model)
    tokens = model.encode(_waves(model, paths))
    for row, path in enumerate(paths):
        count, samples = int(tokens.mask[row].sum()), np.asarray(tokens.samples[row : row + 1])
        kept = np.ascontiguousarray(np.asarray(getattr(tokens, kind)[row, :count]))
        target = output / f"{epath.Path(path).stem}.safetensors"
        write_whole(target, save({kind: kept, "samples": samples}))
        print(f"{path} -> {target}: {count} {'tokens' if kind == 'codes' else kind}")


def decode(model: SpeechModel | AudioModel, paths: Sequence[str], output: epath.Path, options: Options) -> None:
    """What ``encode`` wrote to NAME.wav."""
    kind = _kind(model)
    if isinstance(model, AudioModel):
        _refuse(options)
        settings: list[dict[str, Any]] = [{} for _ in paths]
    else:
        settings = _settings(options, len(paths))
    for path, more in zip(paths, settings):
        arrays = token_file.read(path, (kind, "samples"))
        take = model.latents if isinstance(model, AudioModel) and kind == "latents" else model.tokens
        try:
            tokens = take(arrays[kind], samples=int(arrays["samples"][0]))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        target = output / f"{epath.Path(path).stem}.wav"
        audio.write_wav(target, model.decode(tokens, **more), model.rate)
        print(f"{path} -> {target}: {tokens.latents.shape[1]} {'tokens' if kind == 'codes' else kind}")


def _kind(model: SpeechModel | AudioModel) -> str:
    """What of a model's tokens is stored: "codes", or "latents" where there are none; ValueError for a vocoder."""
    if isinstance(model, VocoderModel):
        raise ValueError("model: is a vocoder, which has no tokens; `jaxtok reconstruct` takes it")
    return "latents" if isinstance(model, AudioModel) and not model.discrete else "codes"


def evaluate(names: Sequence[str], inputs: Sequence[str], options: Options) -> str:
    """Measures models on recordings; writes ``metrics.json`` and ``metrics.md``, and gives the latter.

    Everything that can be refused is, before a model runs.
    """
    wanted = [name for name in options["metrics"].split(",") if name]
    output = epath.Path(options.required("output"))
    try:
        judges, absent = codec.chosen(wanted)
    except ImportError as error:
        raise ValueError(f"--metrics: {error}") from error
    found, origin = recordings.find(inputs, split=options["split"], limit=options["limit"], texts=options["text"])
    models = {}
    for name in names:
        models[name] = load(name)
        if not isinstance(models[name], codec_runs.Model):
            kind = type(models[name]).__name__
            raise ValueError(f"model {name!r}: is a {kind}, expected a tokenizer of sound or a vocoder with --input")
    speech = {name: model for name, model in models.items() if isinstance(model, SpeechModel)}
    for option in ("swap", "prompt", "prompt_text"):
        if options[option] and not speech:
            raise ValueError(f"--{option}: given without a model of speech, expected one among {', '.join(models)}")
    for what in (word for word in options["swap"].split(",") if word):
        arms = {name: codec_runs.Swapped(model, what) for name, model in speech.items()}
        models |= {f"{name}, {arm.title}": arm for name, arm in arms.items()}
    numbers, seed = {name: options[name] for name in ("steps", "guidance")}, options["seed"]
    settings = numbers | _prompt(options)
    results = audio_evaluation.measure(models, found, judges, absent=absent, settings=settings, seed=seed)
    voice = [f"the voice of {epath.Path(options['prompt']).name}"] if options["prompt"] else []
    split = "" if ":" not in inputs[0] else f", {options['split']} split"
    results |= {
        "input": (inputs[0] if len(inputs) == 1 else f"{len(inputs)} files") + split,
        "text": origin if speech or any(recording.text for recording in found) else "none",
        "decoding": ", ".join([f"{k} {v:g}" for k, v in {**numbers, "seed": seed}.items()] + voice) if speech else "",
    }
    text = codec_report.markdown(results)
    write_whole(output / "metrics.json", report.to_json(results))
    write_whole(output / "metrics.md", text)
    return text


def _settings(options: Options, count: int) -> list[dict[str, Any]]:
    """Of the sampler, for each file with its key and text."""
    shared = _sampling(options, count) | _prompt(options)
    keys, texts = shared.pop("rng"), options["text"] or [None] * count
    return [{**shared, "text": text, "rng": keys[i : i + 1]} for i, text in enumerate(texts)]


def _sampled(model: SpeechModel, waves: list[Any], options: Options) -> tuple[Tokens, list[Any]]:
    """Tokens of recordings, and audio of them by a decoder that samples."""
    settings, lead = _sampling(options, len(waves)), _lead(options)
    prompt = {} if lead else _prompt(options)
    tokens = model.encode(waves, text=options["text"] or None)
    if not lead:
        return tokens, model.decode(tokens, **settings, **prompt)
    keys = settings.pop("rng")
    return tokens, [
        _continue(model, tokens, i, wave, lead, rng=keys[i], **settings) for i, wave in enumerate(waves)
    ]  # fmt: skip


def _refuse(options: Options) -> None:
    """ValueError for what only a model that samples takes."""
    if options["prompt"] or options["prompt_text"]:
        raise ValueError("--prompt: given for a model of waveforms, which takes none")


def _waves(model: SpeechModel | AudioModel | VocoderModel, paths: Sequence[str]) -> list[Any]:
    """The files' samples at the model's rate."""
    return [audio.resample(*audio.read(path), model.rate) for path in paths]


def _sampling(options: Options, count: int) -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(options["seed"]), count)
    return {"rng": keys, "steps": options["steps"], "guidance": options["guidance"]}


def _prompt(options: Options) -> dict[str, Any]:
    """The recording whose voice is followed, as ``SpeechModel.decode`` takes it; nothing where there is none."""
    if options["prompt_text"] and not options["prompt"]:
        raise ValueError("--prompt_text: given without --prompt")
    if options["prompt"].startswith("self:"):
        raise ValueError("--prompt: self:SECONDS is for `jaxtok reconstruct` alone, expected an audio file")
    if not options["prompt"]:
        return {}
    prompt, rate = audio.read(options["prompt"])
    return {"prompt": prompt, "rate": rate, "prompt_text": options["prompt_text"]}


def _lead(options: Options) -> float:
    """The seconds of a prompt ``self:SECONDS``; 0 for any other prompt."""
    prompt = options["prompt"]
    if not prompt.startswith("self:"):
        return 0.0
    if options["prompt_text"]:
        raise ValueError("--prompt_text: given with --prompt self:SECONDS, whose words are the utterance's own")
    try:
        seconds = float(prompt.removeprefix("self:"))
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < 3600.0:
        raise ValueError(f"--prompt: expected self:SECONDS with a positive number, found {prompt!r}")
    return seconds


def _continue(model: SpeechModel, tokens: Tokens, row: int, wave: Any, lead: float, **settings: Any) -> Any:
    """Decodes one utterance with its own beginning as prompt, where it is at least twice as long; else without."""
    if len(wave) >= 2 * lead * model.rate:
        settings |= {"prompt": wave, "lead": lead}
    codes = np.asarray(tokens.codes[row, : int(tokens.mask[row].sum())])
    alone = model.tokens(codes, samples=int(tokens.samples[row]))
    return model.decode(alone, text=tokens.text and tokens.text[row], **settings)
