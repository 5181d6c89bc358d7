import io
import re

import numpy as np
import pytest
from PIL import Image

from jaxtok.data import picture


def _file(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def _grey(mode: str, *values) -> Image.Image:
    image = Image.new(mode, (len(values), 1))
    image.putdata(list(values))
    return image


@pytest.mark.parametrize(
    ("image", "wanted"),
    [
        (_grey("RGB", (1, 2, 3), (255, 0, 7)), [(1, 2, 3), (255, 0, 7)]),
        (_grey("L", 0, 9), [(0, 0, 0), (9, 9, 9)]),
        (_grey("1", 0, 255), [(0, 0, 0), (255, 255, 255)]),
        (_grey("RGBA", (9, 8, 7, 0), (9, 8, 7, 255), (0, 0, 255, 51)), [(255,) * 3, (9, 8, 7), (204, 204, 255)]),
        (_grey("LA", (0, 0), (0, 255)), [(255,) * 3, (0,) * 3]),
    ],
)
def test_every_mode_becomes_rgb_on_white(image, wanted):
    out = picture.decode(_file(image), "x")
    assert out.dtype == np.uint8 and out.tolist() == [[list(pixel) for pixel in wanted]]


def test_a_palette_with_a_transparent_colour():
    image = _grey("P", 0, 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    assert picture.decode(_file(image), "x").tolist() == [[[10, 20, 30], [40, 50, 60]]]
    assert picture.decode(_file(image, transparency=1), "x").tolist() == [[[10, 20, 30], [255, 255, 255]]]
    rgb = _grey("RGB", (1, 2, 3), (4, 5, 6))
    assert picture.decode(_file(rgb, transparency=(4, 5, 6)), "x").tolist() == [[[1, 2, 3], [255, 255, 255]]]


def test_the_camera_was_held_upright():
    exif = Image.Exif()
    exif[274] = 6  # turn by 90 degrees clockwise
    data = _file(_grey("RGB", (255, 0, 0), (0, 0, 255)), exif=exif)
    assert picture.decode(data, "x").tolist() == [[[255, 0, 0]], [[0, 0, 255]]]


def _damaged() -> dict[str, tuple[bytes, str]]:
    whole = _file(Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)))
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "white")]
    animated = _file(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    deep = _file(Image.fromarray(np.full((2, 2), 60000, np.uint16)))
    return {
        "empty": (b"", "the file is empty, expected an image"),
        "text": (b"hello there", "not readable as an image (it begins with b'hell'), expected PNG, JPEG or WebP"),
        "cut": (whole[:700], "not readable as an image (a damaged PNG), expected PNG, JPEG or WebP"),
        "header": (whole[:20], "not readable as an image (a damaged PNG), expected PNG, JPEG or WebP"),
        "sound": (b"OggS" + bytes(40), "not readable as an image (it is an Ogg sound), expected PNG, JPEG or WebP"),
        "animated": (animated, "is animated or has pages (3 of them), expected a still image"),
        "deep": (deep, "has mode I;16, expected 8 bits per channel, such as L, RGB or RGBA"),
    }


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "header", "sound", "animated", "deep"])
def test_what_cannot_be_used_is_named_in_one_sentence(kind):
    data, message = _damaged()[kind]
    with pytest.raises(ValueError, match=re.escape(f"a/b.png: {message}") + "$"):
        picture.decode(data, "a/b.png")


def test_a_photograph_with_a_second_view_is_the_photograph():
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("white", "black"))
    data = _file(first, "MPO", save_all=True, append_images=[second])
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 2
    assert (picture.decode(data, "x") == 255).all()


def test_a_bomb_is_not_unpacked(monkeypatch):
    data = _file(Image.new("RGB", (64, 64)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="not readable as an image"):
        picture.decode(data, "x")


def test_reading_a_file(tmp_path):
    (tmp_path / "a.png").write_bytes(_file(_grey("L", 3)))
    assert picture.read(tmp_path / "a.png").tolist() == [[[3, 3, 3]]]
    with pytest.raises(ValueError, match=r"b\.png: no such file"):
        picture.read(tmp_path / "b.png")
    with pytest.raises(ValueError, match="is a folder"):
        picture.read(tmp_path)


def test_area_resize_is_the_mean_of_what_a_pixel_covers():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    middle = pixels[:, 2:10].reshape(4, 2, 4, 2, 3).mean((1, 3))
    np.testing.assert_allclose(picture.resize(pixels, 4), middle, atol=1)
    part = pixels[4:8, 0:4].reshape(2, 2, 2, 2, 3).mean((1, 3))
    np.testing.assert_allclose(picture.resize(pixels, 2, box=(0, 4, 4, 8)), part, atol=1)
    assert (picture.resize(pixels, 8) == pixels[:, 2:10]).all()
    assert (picture.resize(pixels[:, :8], 8) == pixels[:, :8]).all()


@pytest.mark.parametrize("filter", picture.FILTERS)
def test_filters_keep_a_flat_image_and_antialias(filter):
    flat = np.full((16, 16, 3), 77, np.uint8)
    assert (picture.resize(flat, 4, filter=filter) == 77).all() and (
        picture.resize(flat, 40, filter=filter) == 77
    ).all()
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, ::2] = 255
    out = picture.resize(stripes, 4, filter=filter)
    assert set(np.unique(out)) <= {0, 255} if filter == "nearest" else (abs(out[1:3, 1:3].astype(int) - 127) < 12).all()


def test_floats_and_bytes():
    every = np.arange(256, dtype=np.uint8)
    floats = picture.to_float(every)
    assert floats.dtype == np.float32 and floats[0] == -1 and floats[255] == 1
    assert (np.diff(floats) > 0).all() and (picture.to_uint8(floats) == every).all()
    assert picture.to_uint8(np.array([-3.0, 3.0])).tolist() == [0, 255]


def test_writing(tmp_path):
    image = np.zeros((2, 3, 3), np.float32)
    image[0, 1] = (1, -1, 0.5)
    picture.write_png(tmp_path / "deep" / "a.png", image)
    assert (picture.read(tmp_path / "deep" / "a.png") == picture.to_uint8(image)).all()
    picture.write_png(tmp_path / "b.png", np.full((2, 2, 1), 9, np.uint8))
    assert (picture.read(tmp_path / "b.png") == 9).all()
    for bad, message in ((np.zeros((2, 2)), r"shape \(2, 2\)"), (np.full((1, 1, 3), np.nan), "NaN or Inf")):
        with pytest.raises(ValueError, match=message):
            picture.write_png(tmp_path / "c.png", bad)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.png", "deep"]
