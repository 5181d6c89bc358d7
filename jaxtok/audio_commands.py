"""What ``jaxtok reconstruct``, ``encode`` and ``decode`` do with a model of speech."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from safetensors.numpy import save

from jaxtok import token_file
from jaxtok.data import audio
from jaxtok.files import write_whole
from jaxtok.options import Options
from jaxtok.speech_model import SpeechModel, Tokens


def reconstruct(model: SpeechModel, paths: Sequence[str], output: epath.Path, options: Options) -> None:
    """Audio files to tokens and back; writes NAME.wav."""
    waves = _waves(model, paths)
    tokens = model.encode(waves, text=options["text"] or None)
    settings = _sampling(options, len(waves), model)
    if lead := _lead(options["prompt"]):
        keys = settings.pop("rng")
        decoded = [_continue(model, tokens, i, wave, lead, rng=keys[i], **settings) for i, wave in enumerate(waves)]
    else:
        decoded = model.decode(tokens, **settings)
    for path, wave, mask in zip(paths, decoded, tokens.mask):
        target = output / f"{epath.Path(path).stem}.wav"
        audio.write_wav(target, wave, model.rate)
        print(
            f"{path} -> {target}: {int(mask.sum())} tokens, {len(wave) / model.rate:.2f} s, {model.bitrate:.4g} bit/s"
        )


def encode(model: SpeechModel, paths: Sequence[str], output: epath.Path) -> None:
    """Audio files to NAME.safetensors with ``codes`` int32 [N, Q] and ``samples``."""
    tokens = model.encode(_waves(model, paths))
    for row, path in enumerate(paths):
        count, samples = int(tokens.mask[row].sum()), np.asarray(tokens.samples[row : row + 1])
        codes = np.ascontiguousarray(np.asarray(tokens.codes[row, :count]))
        target = output / f"{epath.Path(path).stem}.safetensors"
        write_whole(target, save({"codes": codes, "samples": samples}))
        print(f"{path} -> {target}: {count} tokens")


def decode(model: SpeechModel, paths: Sequence[str], output: epath.Path, options: Options) -> None:
    """What ``encode`` wrote to NAME.wav."""
    texts = options["text"] or [None] * len(paths)
    settings = _sampling(options, len(paths), model)
    keys = settings.pop("rng")
    for i, (path, text) in enumerate(zip(paths, texts)):
        arrays = token_file.read(path, ("codes", "samples"))
        tokens = model.tokens(codes=arrays["codes"], samples=int(arrays["samples"][0]))
        target = output / f"{epath.Path(path).stem}.wav"
        audio.write_wav(target, model.decode(tokens, text=text, rng=keys[i : i + 1], **settings), model.rate)
        print(f"{path} -> {target}: {tokens.codes.shape[1]} tokens")


def _waves(model: SpeechModel, paths: Sequence[str]) -> list[Any]:
    """The files' samples at the model's rate."""
    return [audio.resample(*audio.read(path), model.rate) for path in paths]


def _sampling(options: Options, count: int, model: SpeechModel) -> dict[str, Any]:
    if options["prompt_text"] and not options["prompt"]:
        raise ValueError("--prompt_text: given without --prompt")
    keys = jax.random.split(jax.random.key(options["seed"]), count)
    settings: dict[str, Any] = {"rng": keys, "steps": options["steps"], "guidance": options["guidance"]}
    if options["prompt"] and not options["prompt"].startswith("self:"):
        prompt, rate = audio.read(options["prompt"])
        settings |= {"prompt": audio.resample(prompt, rate, model.rate), "prompt_text": options["prompt_text"]}
    return settings


def _lead(prompt: str) -> float:
    """The seconds of ``self:SECONDS``; 0 for any other prompt."""
    if not prompt.startswith("self:"):
        return 0.0
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
