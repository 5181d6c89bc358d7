"""A generator as users meet it: ``jaxtok.load``, ``sample``, the judge, and the command."""

import jax
import numpy as np
import pytest
from PIL import Image

import jaxtok
from jaxtok import cli
from jaxtok import model as model_lib
from jaxtok.data.abstract import abstract_batch
from jaxtok.models import classifier as classifier_model
from jaxtok.models import generator as generator_model

RNG = np.random.default_rng(0)


def _save(folder, name, slug="lightningdit", **changes):
    """A tiny generator whose output depends on what it is told from the beginning."""
    config = jaxtok.get_config(f"{slug}:tiny").copy_and_resolve_references().to_dict()
    for section, values in changes.items():
        config[section] = config[section] | values if isinstance(values, dict) else values
    task = jaxtok.build(config["task"], model=jaxtok.build(config["model"]))
    batch = {name: np.zeros(shape, dtype) for name, (shape, dtype) in abstract_batch(config["data"], 1).items()}
    params, _, _ = jax.jit(task.init)(jax.random.key(0), batch)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    params = tree.unflatten([x + 0.1 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys)])
    model_lib.save(folder / name, config, params)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generator")
    _save(folder, "model")
    _save(folder, "plain", task={"label_drop": 0.0})
    _save(folder, "nameless", model={"classes": 0})
    _save(folder, "text", "pixart")
    config = jaxtok.get_config("fvq:tiny").copy_and_resolve_references().to_dict()
    task = jaxtok.build(config["task"], model=jaxtok.build(config["model"]))
    params, _, _ = jax.jit(task.init)(jax.random.key(0), {"image": np.zeros((1, 16, 16, 3), np.float32)})
    model_lib.save(folder / "tokenizer", config, params)
    return folder


def test_a_sample_depends_on_its_place_its_label_and_the_seed_alone(place):
    model = jaxtok.load(place / "model")
    images = model.sample([3, 5, 7])
    assert images.shape == (3, 16, 16, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(model.sample([3, 5])[1], images[1])
    np.testing.assert_array_equal(model.sample([0, 5, 7, 9, 9])[1], images[1])
    assert (model.sample([3, 6, 7])[1] != images[1]).any() and (model.sample([3, 5, 7], rng=1)[1] != images[1]).any()
    np.testing.assert_array_equal(model.sample([3, 5, 7], rng=jax.random.key(0)), images)
    assert (model.sample([3, 5, 7], guidance=1.0) != images).any()


def test_the_command_writes_a_row_for_each_class(place, tmp_path, capsys):
    command = f"sample --model {place}/model --count 2 --steps 2 --guidance 1.5 --output {tmp_path}/grid.png"
    assert cli.main([*command.split(), "--class", "flags noto", "--class", "3"]) == 0
    assert "2 samples of 2 classes" in capsys.readouterr().out
    pixels = np.asarray(Image.open(tmp_path / "grid.png"))
    images = jaxtok.load(place / "model").sample([9, 9, 3, 3], steps=2, guidance=1.5)  # of 9 groups x 4 styles
    side = 16 * 4
    assert pixels.shape[0] == 2 * (side + 4)
    for row in range(2):
        for column in range(2):
            left = pixels.shape[1] - (2 - column) * (side + 4) + 2
            tile = pixels[row * (side + 4) + 2 :, left:][:side:4, :side:4]
            np.testing.assert_array_equal(tile, images[2 * row + column])
    assert cli.main(f"sample --model {place}/nameless --count 3 --guidance 1 --output {tmp_path}/n.png".split()) == 0
    assert Image.open(tmp_path / "n.png").size[1] == side + 4


def test_a_sample_depends_on_its_place_its_text_and_the_seed_alone(place, tmp_path, capsys):
    model = jaxtok.load(place / "text")
    images = model.sample(["red apple", "flag: Canada", "cat"])
    assert images.shape == (3, 16, 16, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(model.sample(["red apple", "flag: Canada"])[1], images[1])
    np.testing.assert_array_equal(model.sample(["b", "flag: Canada", "a text of more ids"])[1], images[1])
    assert (model.sample(["red apple", "flag: Chad", "cat"])[1] != images[1]).any()
    assert (model.sample(["red apple", "flag: Canada", "cat"], guidance=1.0) != images).any()
    command = ["sample", "--model", f"{place}/text", "--count", "2", "--output", f"{tmp_path}/grid.png"]
    assert cli.main([*command, "--text", "red apple", "--text", "cat"]) == 0
    assert "2 samples of 2 texts" in capsys.readouterr().out
    assert Image.open(tmp_path / "grid.png").size[1] == 2 * (16 * 4 + 4)
    for texts in ("red apple", [], [3]):
        with pytest.raises(ValueError, match="texts: expected a list of texts"):
            model.sample(texts)


BAD = {
    "zero steps": ("--model {}/model --steps 0", "steps must be at least 1, found 0"),
    "unknown sampler": ("--model {}/model --method eular", "method must be one of"),
    "setting of another generator": ("--model {}/model --top_k 3", "top_k: this generator has no such setting"),
    "class out of range": ("--model {}/model --class 36", "expected a number from 0 to 35, found 36"),
    "unknown class": ("--model {}/model --class flag", "no class named 'flag'; known: activities fluent3d"),
    "guidance without a null condition": ("--model {}/plain --guidance 3", "knows no null condition"),
    "guidance without classes": ("--model {}/nameless --guidance 3", "knows no null condition (it has 0 classes"),
    "class without classes": ("--model {}/nameless --class 1", "knows no classes"),
    "text without a reader": ("--model {}/model --text apple", "--text: this generator reads no text, found 'apple'"),
    "no text": ("--model {}/text", "--text: this generator reads text, found no text"),
    "class in place of text": ("--model {}/text --class 3", "--text: this generator reads text, found --class '3'"),
    "text too long": ("--model {}/text --text " + 41 * "a", "has 41 ids, expected 1 to 40"),
    "no samples": ("--model {}/model --count 0", "--count: expected at least 1, found 0"),
    "another kind of file": ("--model {}/model --output grid.jpg", "expected a .png file"),
    "a tokenizer": ("--model {}/tokenizer", "is a ImageModel, expected a generator"),
    "no model": ("--model {}/absent", "no run there"),
    "a stray word": ("--model {}/model grid.png", "takes no further words"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence(name, place, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command, sentence = BAD[name]
    assert cli.main(["sample", *command.format(place).split()]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1, said
    assert not list(tmp_path.iterdir())


def test_a_generator_encodes_nothing(place, tmp_path, capsys):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    assert cli.main(f"encode --model {place}/model --input {tmp_path}/a.png --output {tmp_path}/out".split()) == 2
    assert "is a GeneratorModel, expected a tokenizer" in capsys.readouterr().err


def test_labels_are_checked(place):
    model = jaxtok.load(place / "model")
    for labels, said in (([36], "expected 0 to 35"), ([0.5], "expected integers"), ([], "expected integers")):
        with pytest.raises(ValueError, match=said):
            model.sample(labels)
    with pytest.raises(ValueError, match="has no classes, expected how many"):
        jaxtok.load(place / "nameless").sample([1, 2], guidance=1.0)


def test_a_tokenizer_must_be_one(place):
    config = jaxtok.get_config("lightningdit:tiny").copy_and_resolve_references().to_dict()
    config["tokenizer"] = str(place / "model")
    with pytest.raises(ValueError, match="expected a tokenizer of images, found a GeneratorModel"):
        generator_model.assemble(config, {})


def test_a_classifier_s_features_are_the_mean_of_its_encoder_s_vectors():
    encoder = dict(target="jaxtok.nn.vqgan:Encoder", channels=4, multipliers=(1, 2), blocks=1, groups=2, z_channels=6)
    config = {"model": dict(target="jaxtok.nn.classifier:Classifier", encoder=encoder, classes=3)}
    module, images = jaxtok.build(config["model"]), RNG.uniform(-1, 1, (5, 8, 8, 3)).astype(np.float32)
    params = jax.jit(module.init)(jax.random.key(0), images)["params"]
    model = classifier_model.assemble(config, params)
    vectors = jax.jit(lambda p, x: module.encoder.apply({"params": p}, x)[0])(params["encoder"], images)
    np.testing.assert_allclose(model.features(images), vectors.mean((1, 2)), atol=1e-5)
    logits = np.asarray(vectors.mean((1, 2))) @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(model.logits(images), logits, atol=1e-5)
    np.testing.assert_array_equal(model.predict(images), logits.argmax(-1))
