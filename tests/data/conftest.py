import pathlib

import numpy as np
import pytest
import soundfile
from PIL import Image


def _write_folder(folder: pathlib.Path, count: int = 24, rate: int = 16000, split: bool = True) -> pathlib.Path:
    """Tones of 0.6 to 2 s by two speakers in two languages; every third sentence is of four words."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = ["\t".join(("file", "text", "speaker", "language", *(["split"] if split else [])))]
    for n in range(count):
        seconds = 0.6 + 0.06 * (n % 24)
        time = np.arange(round(seconds * rate)) / rate
        tone = 0.4 * np.sin(2 * np.pi * (150 + 20 * n) * time) + 0.01 * rng.standard_normal(len(time))
        name = f"{n:03d}." + ("flac" if n % 2 else "wav")
        soundfile.write(folder / name, tone.astype(np.float32), rate)
        text = f"say number {n} now" if n % 3 == 0 else f"tone {n}"
        cells = [name, text, f"speaker{n % 2}", "en" if n % 4 < 2 else "es"]
        if split:
            cells.append({0: "test", 1: "validation"}.get(n % 8, "train"))
        lines.append("\t".join(cells))
    (folder / "all.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def write_folder():
    return _write_folder


@pytest.fixture
def folder(tmp_path):
    return _write_folder(tmp_path / "speech")


def _write_images(folder: pathlib.Path, count: int = 24, groups: tuple[str, ...] = ("cat", "dog")) -> pathlib.Path:
    """PNGs of 8x8 pixels in a folder per class; number n has red 10 n on its left half and green 10 n on its right."""
    for n in range(count):
        below = folder / groups[n % len(groups)]
        below.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((8, 8, 3), np.uint8)
        pixels[:, :4, 0], pixels[:, 4:, 1] = 10 * n, 10 * n
        Image.fromarray(pixels).save(below / f"{n:03d}.png")
    return folder


@pytest.fixture
def write_images():
    return _write_images


@pytest.fixture
def images(tmp_path):
    """A folder of 24 images, described by a TSV."""
    folder = _write_images(tmp_path / "images")
    lines = ["file\tlabel\tstyle\tcaption\tcaption_de\tsplit"]
    for n in range(24):
        group, split = ("cat", "dog")[n % 2], {0: "test", 1: "validation"}.get(n % 8, "train")
        german = f"Bild {n}" if n % 3 else ""
        lines.append(f"{group}/{n:03d}.png\t{group}\t{'ab'[n % 4 // 2]}\tpicture {n}\t{german}\t{split}")
    (folder / "all.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def image_config():
    """A small data config over a source of images."""

    def make(source: str, **more) -> dict:
        examples = {"target": "jaxtok.data.images:Images", "size": 4, **more.pop("examples", {})}
        return {"source": source, "examples": examples, "window": 4, "prefetch": 0} | more

    return make


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def config():
    """A small data config over a source."""

    def make(source: str, **more) -> dict:
        examples = {
            "target": "jaxtok.data.speech:Utterances", "seconds": (1.0, 3.2), "buckets": ((1.6, 24), (3.2, 64)),
            **more.pop("examples", {}),
        }  # fmt: skip
        return {"source": source, "examples": examples, "window": 4, "prefetch": 0} | more

    return make
