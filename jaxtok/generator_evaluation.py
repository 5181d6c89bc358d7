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

from jaxtok import generator_model
from jaxtok.build import build
from jaxtok.classifier_model import ClassifierModel
from jaxtok.data import pipeline
from jaxtok.files import write_whole
from jaxtok.generator_model import GeneratorModel
from jaxtok.metrics import frechet
from jaxtok.model import load
from jaxtok.tasks import generation_report, image_report, report
from jaxtok.train import processes


def write(
    result: Any, config: Mapping[str, Any], workdir: epath.PathLike, *, judge: str = "emoji-judge",
    images: Mapping[str, Any], split: str = "test", samples: int = 10, shown: int = 8,
) -> None:  # fmt: skip
    """Measures a finished run and leaves ``report.md``, ``report.json`` and ``samples.png`` in its directory.

    Args:
      result: what the loop returned.
      config: the run's resolved config.
      workdir: the run's directory.
      judge: name or directory of a classifier of the generator's classes.
      images: a data config of the real images at the samples' size, with the generator's labels.
      split: the held-out one.
      samples: of each class.
      shown: of these, in the picture.
    """
    params = processes.whole(result.state.ema or result.state.params)
    if not processes.is_first():
        return
    folder = epath.Path(workdir)
    judging = load(judge)
    model = generator_model.assemble(config, jax.tree.map(jnp.asarray, params))
    _check(judging, model, judge)
    raw = generator_model.assemble(config, _untrained(config))
    real = real_moments(judging, images)
    held_out, labels = _split(images, split)
    numbers = measure(model, judging, real, labels, samples=samples)
    numbers["distance"]["untrained"] = _distance(judging, raw.sample(labels, rng=1), real)
    numbers["accuracy"]["held_out"] = float((judging.predict(held_out) == labels).mean())
    numbers["distance"]["held_out"] = _distance(judging, held_out, real)

    names = pipeline.classes(images)
    parts = np.split(numbers.pop("images"), model.classes)
    image_report.rows(folder / "samples.png", {name: part[:shown] for name, part in zip(names, parts)})
    settings = ", ".join(f"{key} {value}" for key, value in dataclasses.asdict(model.sampling).items())
    results = report.about(result, config, folder, params) | numbers | {
        "judge": judge, "features": real.mean.size, "classes": model.classes, "samples": samples,
        "held_out": len(labels), "split": split, "sampling": settings,
        "files": {
            "samples.png": "samples of each class",
            "metrics.jsonl": "losses, speed and evaluations by step",
            "config.json": "the resolved config",
        },
        "next": {f"jaxtok sample --model {workdir} --class '{names[0]}' --output grid.png": "your own samples"}
        | report.following(result, config, workdir),
    }  # fmt: skip
    write_whole(folder / "report.json", report.to_json(results))
    write_whole(folder / "report.md", generation_report.markdown(results))


def measure(
    model: GeneratorModel, judging: ClassifierModel, real: frechet.Moments, labels: np.ndarray, *, samples: int,
    seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """The judge's view of a generator.

    Args:
      model: the generator.
      judging: the classifier.
      real: moments of the features of the real training images.
      labels: of the real held-out images, int [N].
      samples: of each class.
      seed: of the samples.

    Returns:
      ``accuracy`` (``samples``, ``chance``, and ``unguided`` where the sampler guides), ``distance`` (``samples``,
      ``unguided``), ``calls`` (of the network for one sample), and ``images``, the samples class by class.
    """
    asked = np.repeat(np.arange(model.classes), samples)
    accuracy, distance = {"chance": 1 / model.classes}, {}
    guided = getattr(model.sampling, "guidance", 1.0) != 1.0
    images = np.zeros(0)
    for name, settings in (("unguided", {"guidance": 1.0}), ("samples", {})):
        if name == "unguided" and not guided:
            continue
        images = model.sample(asked, rng=seed, **settings)
        accuracy[name] = float((judging.predict(images) == asked).mean())
        alike = model.sample(labels, rng=seed + 1, **settings)
        distance[name] = _distance(judging, alike, real)
    return {"accuracy": accuracy, "distance": distance, "images": images, "calls": model.calls}


def _distance(judging: ClassifierModel, images: np.ndarray, real: frechet.Moments) -> float:
    return frechet.distance(frechet.moments(judging.features(images)), real)


def real_moments(judging: ClassifierModel, data: Mapping[str, Any]) -> frechet.Moments:
    """Of the judge's features of the real training images of a data config."""
    return frechet.moments(judging.features(_split(data, "train")[0]))


def _split(data: Mapping[str, Any], split: str) -> tuple[np.ndarray, np.ndarray]:
    """All images [N, H, W, C] of a split and their labels [N]."""
    images, labels = [], []
    for batch in pipeline.evaluation(data, split=split, batch_size=64):
        images.append(batch["image"][batch["example_mask"]])
        labels.append(batch["label"][batch["example_mask"]])
    return np.concatenate(images), np.concatenate(labels)


def _untrained(config: Mapping[str, Any]) -> Any:
    """The parameters with which the run began."""
    task = build(config["task"], model=build(config["model"]))
    batch = next(pipeline.training(config["data"], batch_size=1, seed=config["seed"]))
    return jax.jit(lambda batch: task.init(jax.random.key(config["seed"]), batch)[0])(batch)


def _check(judging: Any, model: GeneratorModel, name: str) -> None:
    if not isinstance(judging, ClassifierModel):
        raise ValueError(f"judge {name!r}: is a {type(judging).__name__}, expected a classifier")
    if judging.classes != model.classes:
        raise ValueError(f"judge {name!r}: knows {judging.classes} classes, the generator {model.classes}")
