"""The examples in the docstrings and on the page of the quantizers are true."""

import doctest
import importlib
import inspect
import pathlib
import pkgutil
import re

import pytest

import jaxtok.quantizers as jq

MODULES = sorted(module.name for module in pkgutil.iter_modules(jq.__path__))
PAGE = pathlib.Path(jq.__path__[0]) / "README.md"


def _is_quantizer(value):
    """A class with codes, or a function that makes one."""
    made = inspect.signature(value).return_annotation if inspect.isfunction(value) else value
    return inspect.isclass(made) and hasattr(made, "codebook_size")


QUANTIZERS = sorted(name for name, value in vars(jq).items() if not name.startswith("_") and _is_quantizer(value))


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_the_module_run(name):
    result = doctest.testmod(importlib.import_module(f"jaxtok.quantizers.{name}"))
    assert result.failed == 0


@pytest.mark.parametrize("name", QUANTIZERS)
def test_every_quantizer_has_an_example_of_its_own(name):
    value = getattr(jq, name)
    assert value.__doc__ and f"jq.{name}(" in "".join(
        example.source for example in doctest.DocTestParser().get_examples(value.__doc__)
    )


def test_code_of_the_page_runs_from_top_to_bottom():
    """Comments of the form ``# value`` after an expression are checked too."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert len(blocks) >= 5
    scope, checked = {}, 0
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), scope)
        for expression, shown in re.findall(r"^(\S.*?)  # -> (.*)$", block, re.M):
            assert str(eval(expression, scope)) == shown, expression
            checked += 1
    assert checked >= 5


def test_the_page_names_every_quantizer_and_estimator():
    text = PAGE.read_text()
    rows = re.findall(r"^\| `(\w+)`", text, re.M)
    assert len(QUANTIZERS) >= 15 and sorted(set(QUANTIZERS) - set(rows)) == []
    for name in ("straight_through", "rotation", "rotation_tangent", "diveq"):
        assert f"`{name}`" in text


def test_the_page_is_a_page():
    assert len(PAGE.read_text().splitlines()) <= 200
