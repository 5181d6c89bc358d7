"""The codec commands on images: files in, tokens, files out; bad input in one sentence."""

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import jaxtok
from jaxtok import cli
from jaxtok import model as model_lib

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny model, whose codebook is no parameter, and pictures."""
    folder = tmp_path_factory.mktemp("images")
    config = jaxtok.get_config("fvq:tiny").copy_and_resolve_references().to_dict()
    config["model"]["quantizer"] = dict(target="jaxtok.quantizers:SimVQ", size=16, width=8)
    task = jaxtok.build(config["task"], model=jaxtok.build(config["model"]))
    batch = {"image": np.zeros((1, 16, 16, 3), np.float32)}
    params, state, _ = jax.jit(task.init)(jax.random.key(0), batch)
    model_lib.save(folder / "model", config, params, state)
    Image.fromarray(RNG.integers(0, 256, (17, 24, 3), np.uint8)).save(folder / "odd.png")
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    (folder / "note.png").write_text("no image")
    return folder


def test_a_saved_model_keeps_its_codebook(place):
    model = jaxtok.load(place / "model")
    assert sorted(model.variables) == ["codebook", "params"]
    image = RNG.integers(0, 256, (16, 16, 3), np.uint8)
    tokens = model.encode(image)
    np.testing.assert_array_equal(model.tokens(np.asarray(tokens.codes)).latents, tokens.latents)
    assert len(np.unique(tokens.codes)) > 1


def test_a_moving_codebook_trains_on_after_saving(place):
    config = jaxtok.get_config("fvq:tiny").copy_and_resolve_references().to_dict()
    config["model"]["quantizer"] = dict(target="jaxtok.quantizers:EMAVQ", size=16, width=8, kmeans=2)
    task = jaxtok.build(config["task"], model=jaxtok.build(config["model"]))
    batch = {"image": np.zeros((2, 16, 16, 3), np.float32), "index": np.arange(2)}
    params, state, _ = jax.jit(task.init)(jax.random.key(0), batch)
    model_lib.save(place / "moving", config, params, state)
    model = jaxtok.load(place / "moving")
    state = dict(state) | {"codebook": model.variables["codebook"]}
    step = jax.jit(lambda params, state: task.losses(params, state, batch, jax.random.key(1), 0))
    _, moved = step(model.variables["params"], state)
    assert bool(moved["codebook"]["quantizer"]["started"])


def test_a_damaged_file_of_weights_is_named(place):
    (place / "damaged").mkdir()
    for name in ("config.json", "weights.safetensors"):
        data = (place / "model" / name).read_bytes()
        (place / "damaged" / name).write_bytes(data if name.endswith("json") else data[:100])
    with pytest.raises(ValueError, match=r"weights.safetensors: damaged"):
        jaxtok.load(place / "damaged")


def test_encode_and_decode_are_reconstruct(place, capsys):
    common = ["--model", str(place / "model")]
    assert cli.main(["reconstruct", *common, "--output", str(place / "a"), str(place / "odd.png")]) == 0
    assert "24 x 16 pixels, 96 tokens, 384 bits" in capsys.readouterr().out
    assert cli.main(["encode", *common, "--output", str(place / "b"), str(place / "odd.png")]) == 0
    codes = load_file(place / "b" / "odd.safetensors")["codes"]
    assert codes.shape == (8, 12, 1) and codes.dtype == np.int32
    tokens = str(place / "b" / "odd.safetensors")
    assert cli.main(["decode", *common, "--output", str(place / "c"), tokens]) == 0
    one, other = (np.asarray(Image.open(place / name / "odd.png")) for name in "ac")
    assert one.shape == (16, 24, 3)
    assert np.abs(one.astype(int) - other).max() <= 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("reconstruct {}/dot.png", "dot.png: expected at least 2 pixels a side, found shape (1, 1, 3)"),
        ("reconstruct {}/note.png", "note.png: not readable as an image"),
        ("reconstruct {}/absent.png", "absent.png"),
        ("reconstruct --text=hello {}/odd.png", "--text: given for a model of images"),
        ("decode {}/odd.png", "odd.png: not a file of tokens"),
        ("reconstruct {}/odd.png {}/a/../odd.png", "would both be written to"),
        ("reconstruct --output={} {}/odd.png", "would be overwritten"),
        ("reconstruct --prompt=self:1 {}/odd.png", "--prompt: given for a model of images"),
    ],
)
def test_bad_input_gives_one_sentence(place, words, message, capsys):
    command, *rest = words.replace("{}", str(place)).split()
    assert cli.main([command, "--model", str(place / "model"), "--output", str(place / "out"), *rest]) != 0
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
