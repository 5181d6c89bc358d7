"""How good a trained image tokenizer is on held-out images, and the files that show it.

One protocol: every image of a held-out split, reconstructed without any draw; PSNR and MSE of
:mod:`jaxtok.metrics.image`, beside those of the untrained model and of the mean training image; codes counted exactly,
over all tokens of the split.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from jaxtok.build import build
from jaxtok.data import pipeline
from jaxtok.files import write_whole
from jaxtok.metrics import image as metrics
from jaxtok.quantizers import usage
from jaxtok.tasks import image_report, report
from jaxtok.train import processes

Images = Iterator[tuple[np.ndarray, np.ndarray]]  # [B, H, W, C] and bool [B]: which are no padding


def write(
    result: Any, config: Mapping[str, Any], workdir: epath.PathLike, *, split: str = "test", batch_size: int = 64,
    shown: int = 30,
) -> None:  # fmt: skip
    """Measures a finished run and leaves ``report.md``, ``report.json`` and pictures in its directory.

    Args:
      result: what the loop returned.
      config: the run's resolved config.
      workdir: the run's directory.
      split: the held-out split; all of it is encoded.
      batch_size: images encoded at once.
      shown: images in the picture.
    """
    trees = processes.whole((result.state.ema or result.state.params, result.state.state))
    if not processes.is_first():
        return
    folder = epath.Path(workdir)
    task = build(config["task"], model=build(config["model"]))
    params, state = jax.tree.map(jnp.asarray, trees)  # on one device, whatever the mesh was
    first = next(_held_out(config, split, 1))[0]
    raw, raw_state, _ = jax.jit(task.init)(jax.random.key(config["seed"]), {"image": first})
    trained = measure(task, params, state, _held_out(config, split, batch_size), shown=shown)
    untrained = measure(task, raw, raw_state, _held_out(config, split, batch_size))
    mean = mean_image(config)
    always = _errors(lambda x, real: jnp.broadcast_to(mean, x.shape), _held_out(config, split, batch_size))

    quantizer, tokens = task.model.quantizer, int(np.prod(trained["grid"]))
    size, books = (quantizer.codebook_size, trained["counts"]) if trained["counts"] else (1, {})
    image_report.grid(folder / "reconstructions.png", trained["images"], [trained["shown"]])
    files = {"reconstructions.png": f"images of the {split} split, each with its reconstruction to its right"}
    if books:
        image_report.histogram(folder / "codes.png", books, size=size)
        files["codes.png"] = "how often each code was used, most frequent first"
    numbers = report.about(result, config, folder, params) | {
        "psnr": {"trained": trained["psnr"], "untrained": untrained["psnr"], "mean_image": always["psnr"]},
        "mse": {"trained": trained["mse"], "untrained": untrained["mse"], "mean_image": always["mse"]},
        "images": len(trained["psnr"]),
        "split": split,
        "size": size,
        "bits": float(np.log2(size) * len(books)),
        "tokens": tokens,
        "pixels": int(np.prod(trained["images"].shape[1:3])),
        "codes": {name: usage.summary(counts) | {"usage": len(counts) / size} for name, counts in books.items()},
        "files": files | {
            "metrics.jsonl": "losses, codebook usage, speed and evaluations by step",
            "config.json": "the resolved config",
        },
        "next": {f"jaxtok reconstruct --model {workdir} --input YOUR.png --output out": "your own picture"}
        | report.following(result, config, workdir),
    }  # fmt: skip
    write_whole(folder / "report.json", report.to_json(_means(numbers)))
    write_whole(folder / "report.md", image_report.markdown(numbers))


def measure(task: Any, params: Any, state: Any, batches: Images, *, shown: int = 0) -> dict[str, Any]:
    """Reconstructs images and counts their codes.

    Args:
      task: a :class:`jaxtok.tasks.autoencode_image.ImageAutoencode`.
      params: of its model.
      state: of the task.
      batches: of images [B, H, W, C], each with bool [B] that marks those that count.
      shown: how many of them to keep with their reconstructions.

    Returns:
      ``psnr``, ``mse``: a list with a number per image; ``counts``: of the codes that were used, by codebook; ``grid``:
      the shape of an image's tokens; ``images`` and ``shown``: the first images and their reconstructions.
    """
    codes, kept = [], []

    def run(x, real):
        y, found = _reconstruct(task, params, state, x)
        if found is not None:
            codes.append(np.asarray(found)[real])
        if sum(len(pair[0]) for pair in kept) < shown:
            kept.append((x[real], np.asarray(y)[real]))
        return y

    errors = _errors(run, batches)
    if not codes:
        counts, grid = {}, (0,)
    else:
        flat, grid = np.concatenate([part.reshape(-1, part.shape[-1]) for part in codes]), codes[0].shape[1:-1]
        names = usage.names(flat.shape[1])
        counts = {name: np.unique(flat[:, q], return_counts=True)[1] for q, name in enumerate(names)}
    images, again = (np.concatenate(part)[:shown] for part in zip(*kept)) if kept else (np.zeros(0), np.zeros(0))
    return errors | {"counts": counts, "grid": grid, "images": images, "shown": again}


@functools.partial(jax.jit, static_argnums=0)
def _reconstruct(task: Any, params: Any, state: Any, x: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    return task.reconstruct(params, state, x)


def mean_image(config: Mapping[str, Any], images: int = 1024) -> np.ndarray:
    """The mean [H, W, C] of the first training images: the answer that knows no image."""
    stream = pipeline.training(config["data"], batch_size=64, seed=config["seed"])
    batches = -(-images // 64)
    total = sum(next(stream)["image"].astype(np.float64).mean(0) for _ in range(batches))
    stream.close()
    return np.asarray(total / batches, np.float32)


def _errors(reconstruct: Callable[[Any, Any], Any], batches: Images) -> dict[str, list[float]]:
    """PSNR and MSE of each image that counts."""
    found: dict[str, list[float]] = {"psnr": [], "mse": []}
    for x, real in batches:
        for name, values in jax.device_get(_measured(x, reconstruct(x, real))).items():
            found[name] += values[real].tolist()
    return found


@jax.jit
def _measured(x: jax.Array, y: jax.Array) -> dict[str, jax.Array]:
    return {"psnr": metrics.psnr(x, y), "mse": metrics.squared_error(x, y)}


def _held_out(config: Mapping[str, Any], split: str, batch_size: int) -> Images:
    """The images of a split, batch by batch."""
    for batch in pipeline.evaluation(config["data"], split=split, batch_size=batch_size):
        yield batch["image"], batch["example_mask"]


def _means(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The same with means in the place of one number per image, of which there may be fifty thousand."""
    short = {name: {key: float(np.mean(values)) for key, values in numbers[name].items()} for name in ("psnr", "mse")}
    return dict(numbers) | short
