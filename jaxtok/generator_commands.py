"""What ``jaxtok sample`` does with a generator of images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxtok.data import pipeline
from jaxtok.generator_model import GeneratorModel
from jaxtok.tasks import image_report


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
