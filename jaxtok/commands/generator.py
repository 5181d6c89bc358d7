"""What ``jaxtok sample`` does with a generator of images or of speech."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxtok.commands.options import Options
from jaxtok.data import audio, pipeline
from jaxtok.models.generator import GeneratorModel
from jaxtok.models.speech_generator import SpeechGenerator
from jaxtok.tasks import image_report

FOR_SPEECH = ("prompt", "prompt_text", "seconds", "decoder_steps", "decoder_guidance")
FOR_IMAGES = ("class", "count")


def speak(model: SpeechGenerator, options: Options, settings: Mapping[str, Any]) -> None:
    """Writes a WAV file of one text, spoken in the voice of a prompt where there is one.

    Args:
      model: the generator.
      options: ``text``, ``output``, ``seed`` and what ``FOR_SPEECH`` names.
      settings: of the sampler, where they shall be others than the run's.

    Raises:
      ValueError: for no text or several, a file that is no WAV, an option of images, or what ``model.sample`` refuses.
    """
    output = epath.Path(options["output"] or "sample.wav")
    _refuse(options, FOR_IMAGES, "speech")
    if len(options["text"]) != 1:
        raise ValueError(f"--text: expected one text to be spoken, found {len(options['text'])}")
    if output.suffix != ".wav":
        raise ValueError(f"--output: expected a .wav file, found {str(output)!r}")
    given = {name: options[name] for name in FOR_SPEECH if options[name] not in (None, "")}
    if "prompt" in given:
        given["prompt"], given["rate"] = audio.read(given["prompt"])
    wave = model.sample(options["text"][0], rng=options["seed"], **given, **settings)
    audio.write_wav(output, wave, model.rate)
    print(f"{len(wave) / model.rate:.2f} s of speech -> {output}")


def draw(model: GeneratorModel, options: Options, config: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Writes a PNG grid, as ``sample`` does, of what the options ask for."""
    _refuse(options, FOR_SPEECH, "images")
    count = 8 if options["count"] is None else options["count"]
    sample(
        model, config, epath.Path(options["output"] or "samples.png"), classes=options["class"], texts=options["text"],
        count=count, seed=options["seed"], settings=settings,
    )  # fmt: skip


def _refuse(options: Options, names: Sequence[str], kind: str) -> None:
    """ValueError for an option that a generator of this kind does not take."""
    for name in names:
        if options[name] not in (None, "", []):
            raise ValueError(f"--{name}: given for a generator of {kind}, which takes none")


def sample(
    model: GeneratorModel, config: Mapping[str, Any], output: epath.Path, *, classes: Sequence[str],
    texts: Sequence[str], count: int, seed: int, settings: Mapping[str, Any],
) -> None:  # fmt: skip
    """Writes a PNG grid, a row of ``count`` samples for each class or text.

    Args:
      model: the generator.
      config: of its run.
      output: the PNG file.
      classes: names or numbers; all of them where there is none.
      texts: for a generator that reads text, at least one.
      count: samples of each.
      seed: of the noise.
      settings: of the sampler, where they shall be others than the run's.

    Raises:
      ValueError: for an unknown class, a count below 1, a file that is no PNG, or a wrong setting.
    """
    if count < 1:
        raise ValueError(f"--count: expected at least 1, found {count}")
    if output.suffix != ".png":
        raise ValueError(f"--output: expected a .png file, found {str(output)!r}")
    if model.reader:
        if classes or not texts:
            found = f"--class {classes[0]!r}" if classes else "no text"
            raise ValueError(f"--text: this generator reads text, found {found}")
        asked = [text for text in texts for _ in range(count)]
        images = model.sample(asked, rng=seed, **settings)
        image_report.rows(output, dict(zip(texts, np.split(images, len(texts)))))
        print(f"{count} samples of {len(texts)} texts -> {output}")
        return
    if texts:
        raise ValueError(f"--text: this generator reads no text, found {texts[0]!r}")
    if not model.classes:
        if classes:
            raise ValueError(f"--class: this generator knows no classes, found {classes[0]!r}")
        images = model.sample(count, rng=seed, **settings)
        image_report.rows(output, {"": images})
        print(f"{count} samples -> {output}")
        return
    names = _names(config, model.classes)
    chosen = [_number(word, names, model.classes) for word in classes] or list(range(model.classes))
    images = model.sample(np.repeat(chosen, count), rng=seed, **settings)
    shown = {names[number]: part for number, part in zip(chosen, np.split(images, len(chosen)))}
    image_report.rows(output, shown)
    print(f"{count} samples of {len(chosen)} classes -> {output}")


def _names(config: Mapping[str, Any], count: int) -> list[str]:
    """Of the classes, by the index of the run's data source."""
    names = pipeline.classes(config["data"])
    if len(names) != count:
        source = config["data"]["source"]
        raise ValueError(
            f"--class: data source {source!r} names {len(names)} classes and the model knows {count}; give numbers"
        )
    return names


def _number(word: str, names: Sequence[str], count: int) -> int:
    if word.isdecimal():
        if int(word) >= count:
            raise ValueError(f"--class: expected a number from 0 to {count - 1}, found {word}")
        return int(word)
    if word not in names:
        raise ValueError(f"--class: no class named {word!r}; known: {', '.join(names)}")
    return names.index(word)
