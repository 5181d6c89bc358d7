import functools

import ml_collections
import pytest

import jaxtok
from jaxtok import recipes
from jaxtok.build import build
from jaxtok.diffusion import times
from jaxtok.quantizers import BSQ


def test_target_is_called_and_ref_is_taken():
    spec = ml_collections.ConfigDict(dict(target="jaxtok.quantizers.bsq:BSQ", bits=6, group=3))
    assert build(spec) == BSQ(bits=6, group=3)
    assert build(dict(target="jaxtok.quantizers.bsq:BSQ", bits=6), group=2) == BSQ(bits=6, group=2)
    assert build({"ref": "jaxtok.diffusion.times:uniform"}) is times.uniform
    partial = build({"ref": "jaxtok.diffusion.times:uniform", "low": 0.5})
    assert isinstance(partial, functools.partial) and partial.keywords == {"low": 0.5}
    assert build({"a": ({"ref": "jaxtok.diffusion.times:uniform"}, 1)}) == {"a": (times.uniform, 1)}


@pytest.mark.parametrize(
    "spec, message",
    [
        ({"target": "jaxtok.quantizers.bsq"}, r"expected 'package.module:Name'"),
        ({"target": "jaxtok.quantizers.bqs:BSQ"}, r"no module 'jaxtok.quantizers.bqs'"),
        ({"target": "jaxtok.quantizers.bsq:BQS"}, r"has no 'BQS'"),
        ({"target": "jaxtok.quantizers.bsq:BSQ", "bit": 14}, r"its fields are bits"),
        ({"target": "jaxtok.quantizers.bsq:BSQ", "ref": "x:y"}, r"found both"),
    ],
)
def test_wrong_descriptions_are_refused_in_one_sentence(spec, message):
    with pytest.raises(ValueError, match=message):
        build(spec)


def test_overrides_in_the_name_are_typed():
    config = jaxtok.get_config("tadicodec:tiny,train.steps=7,train.ema=0,model.quantizer.entropy=0.5,slug=abc")
    assert (config.train.steps, config.train.ema, config.model.quantizer.entropy, config.slug) == (7, 0.0, 0.5, "abc")
    assert isinstance(config.train.ema, float)


@pytest.mark.parametrize(
    "name, message",
    [
        ("tadicodek", "did you mean tadicodec"),
        ("tadicodec:big", "no variant 'big'"),
        ("tadicodec:tiny,train.stepz=3", "did you mean 'train.steps'"),
        ("tadicodec:tiny,train.steps=many", "expected int, found str"),
        ("tadicodec:tiny,train=3", "expected ConfigDict|expected .*, found int"),
    ],
)
def test_wrong_names_are_refused_in_one_sentence(name, message):
    with pytest.raises(ValueError, match=message):
        jaxtok.get_config(name)


def test_saved_configs_have_tuples_again():
    assert recipes.from_json('{"a": [1, [2, {"b": []}]]}') == {"a": (1, (2, {"b": ()}))}
