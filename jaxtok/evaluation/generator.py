"""How good a trained generator of images is, by a judge, and the files that show it.

One protocol. The judge is a classifier of the same classes that was trained on the real training images. Asked class:
the share of samples, as many of each class, in which it sees the class that was asked for, so chance is one over the
number of classes whatever the generator does. Frechet distance: of the judge's features, samples with the labels of
the held-out images against all training images, beside the same for the held-out images themselves.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from jaxtok.build import build
from jaxtok.data import pipeline
from jaxtok.files import write_whole
from jaxtok.metrics import frechet
from jaxtok.model import load
from jaxtok.models import generator as generator_model
from jaxtok.models.classifier import ClassifierModel
from jaxtok.models.generator import GeneratorModel
from jaxtok.tasks import generation_report, image_report, report
from jaxtok.train import processes


def write(
    result: Any, config: Mapping[str, Any], workdir: epath.PathLike, *, judge: str = "emoji-judge",
    images: Mapping[str, Any], split: str = "test", samples: int = 10, shown: int = 8, merge: int = 1,
) -> None:  # fmt: skip
    """Measures a finished run and leaves ``report.md``, ``report.json`` and ``samples.png`` in its directory.

    A generator of classes makes as many samples of each. One that reads text makes an image of the caption of each
    held-out image, whose class the judge should see; chance is then what shuffled captions give.

    Args:
      result: what the loop returned.
      config: the run's resolved config.
      workdir: the run's directory.
      judge: name or directory of a classifier.
      images: a data config of the real images at the samples' size, with the generator's labels, or with captions.
      split: the held-out one.
      samples: of each class.
      shown: of these, in the picture.
      merge: how many neighbouring classes of the judge are one class of the images.
    """
    params = processes.whole(result.state.ema or result.state.params)
    if not processes.is_first():
        return
    folder = epath.Path(workdir)
    judging, names = load(judge), pipeline.classes(images)
    model = generator_model.assemble(config, jax.tree.map(jnp.asarray, params))
    _check(judging, model, judge, len(names), merge)
    raw = generator_model.assemble(config, _untrained(config))
    real = real_moments(judging, images)
    held_out, labels, texts = _split(images, split)
    alike = texts if model.reader else labels
    asked, expected = (texts, labels) if model.reader else (np.repeat(np.arange(len(names)), samples),) * 2
    numbers = measure(model, judging, real, asked, expected, alike, merge=merge)
    numbers["distance"]["untrained"] = _distance(judging, raw.sample(alike, rng=1), real)
    numbers["accuracy"]["held_out"] = float((_seen(judging, held_out, merge) == labels).mean())
    numbers["distance"]["held_out"] = _distance(judging, held_out, real)

    drawn = numbers.pop("images")
    if model.reader:
        every = max(1, len(texts) // 24)
        image_report.rows(folder / "samples.png", {texts[n]: drawn[n : n + 1] for n in range(0, len(texts), every)})
    else:
        parts = np.split(drawn, len(names))
        image_report.rows(folder / "samples.png", {name: part[:shown] for name, part in zip(names, parts)})
    settings = ", ".join(f"{key} {value}" for key, value in dataclasses.asdict(model.sampling).items())
    first = f"--text '{texts[0]}'" if model.reader else f"--class '{names[0]}'"
    what = f"{len(texts)} captions of the {split} split" if model.reader else f"{samples} samples of each class"
    results = report.about(result, config, folder, params) | numbers | {
        "judge": judge, "features": real.mean.size, "classes": len(names), "asked": what,
        "held_out": len(labels), "split": split, "sampling": settings,
        "files": {
            "samples.png": "samples of each class" if not model.reader else "samples of captions",
            "metrics.jsonl": "losses, speed and evaluations by step",
            "config.json": "the resolved config",
        },
        "next": {f"jaxtok sample --model {workdir} {first} --output grid.png": "your own samples"}
        | report.following(result, config, workdir),
    }  # fmt: skip
    write_whole(folder / "report.json", report.to_json(results))
    write_whole(folder / "report.md", generation_report.markdown(results))


def measure(
    model: GeneratorModel, judging: ClassifierModel, real: frechet.Moments, asked: Any, expected: np.ndarray,
    alike: Any, *, merge: int = 1, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """The judge's view of a generator.

    Args:
      model: the generator.
      judging: the classifier.
      real: moments of the features of the real training images.
      asked: labels or texts, one for each sample.
      expected: the classes that the judge should see in them.
      alike: what is asked for in the samples whose distance is measured, such as the labels of held-out images.
      merge: how many neighbouring classes of the judge are one of ``expected``.
      seed: of the samples.

    Returns:
      ``accuracy`` (``samples``, ``chance``, and ``unguided`` where the sampler guides), ``distance`` (``samples``,
      ``unguided``), ``calls`` (of the network for one sample), and ``images``, the samples in order. Chance is the
      share that answers in another order give: the sum over classes of how often they are expected and seen.
    """
    accuracy, distance = {}, {}
    guided = getattr(model.sampling, "guidance", 1.0) != 1.0
    images = np.zeros(0)
    for name, settings in (("unguided", {"guidance": 1.0}), ("samples", {})):
        if name == "unguided" and not guided:
            continue
        images = model.sample(asked, rng=seed, **settings)
        seen = _seen(judging, images, merge)
        accuracy[name] = float((seen == expected).mean())
        accuracy["chance"] = float(sum((seen == label).mean() * (expected == label).mean() for label in set(expected)))
        again = images if alike is asked else model.sample(alike, rng=seed + 1, **settings)
        distance[name] = _distance(judging, again, real)
    return {"accuracy": accuracy, "distance": distance, "images": images, "calls": model.calls}


def _seen(judging: ClassifierModel, images: np.ndarray, merge: int) -> np.ndarray:
    return judging.predict(images) // merge


def _distance(judging: ClassifierModel, images: np.ndarray, real: frechet.Moments) -> float:
    return frechet.distance(frechet.moments(judging.features(images)), real)


def real_moments(judging: ClassifierModel, data: Mapping[str, Any]) -> frechet.Moments:
    """Of the judge's features of the real training images of a data config."""
    return frechet.moments(judging.features(_split(data, "train")[0]))


def _split(data: Mapping[str, Any], split: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """All images [N, H, W, C] of a split, their labels [N], and their captions where the config names a language."""
    images, labels, texts = [], [], []
    for batch in pipeline.evaluation(data, split=split, batch_size=64):
        real = batch["example_mask"]
        images.append(batch["image"][real])
        labels.append(batch["label"][real])
        if "text_ids" in batch:
            texts += [ids[mask] for ids, mask in zip(batch["text_ids"][real], batch["text_mask"][real])]
    decoded = [build(data["examples"]).text.decode(ids) for ids in texts]
    return np.concatenate(images), np.concatenate(labels), decoded


def _untrained(config: Mapping[str, Any]) -> Any:
    """The parameters with which the run began."""
    task = build(config["task"], model=build(config["model"]))
    batch = next(pipeline.training(config["data"], batch_size=1, seed=config["seed"]))
    return jax.jit(lambda batch: task.init(jax.random.key(config["seed"]), batch)[0])(batch)


def _check(judging: Any, model: GeneratorModel, name: str, classes: int, merge: int) -> None:
    if not isinstance(judging, ClassifierModel):
        raise ValueError(f"judge {name!r}: is a {type(judging).__name__}, expected a classifier")
    if judging.classes != classes * merge:
        raise ValueError(f"judge {name!r}: knows {judging.classes} classes, the images {classes} x {merge}")
    if not model.reader and model.classes != classes:
        raise ValueError(f"judge {name!r}: judges {classes} classes, the generator knows {model.classes}")
