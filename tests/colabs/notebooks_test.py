"""The notebooks run from top to bottom, with fewer steps than a reader would take, and are kept without outputs."""

import ast
import pathlib
import re

import jax
import nbclient
import nbformat
import pytest

from jaxtok import recipes

PATHS = sorted((pathlib.Path(__file__).parents[2] / "colabs").glob("*.ipynb"))
CACHE = (
    "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)  # fmt: skip
FIGURES = {"codecs": 1, "quantizers": 3, "tadicodec": 2}

every = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


@every
def test_notebook_is_kept_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for number, cell in enumerate(notebook.cells):
        assert cell.id == f"cell-{number:02d}" and cell.source.strip()
        assert not cell.get("outputs") and cell.get("execution_count") is None and not cell.metadata
    assert sorted(notebook.metadata) == ["kernelspec", "language_info"]


@every
def test_text_of_the_notebook_names_files_that_exist(path):
    text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")
    assert all((path.parents[1] / name).exists() for name in re.findall(r"`(\w+/[\w/]+\.\w+)`", text))


def test_the_notebook_of_codecs_plays_every_shipped_one():
    (path,) = (path for path in PATHS if path.stem == "codecs")
    source = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
    models = ast.literal_eval(re.search(r"^MODELS = (\(.*?\))", source, re.M | re.S).group(1))
    assert sorted(models) == [name for name in recipes.shipped() if name != "emoji-judge"]


@pytest.mark.slow
@every
def test_notebook_runs(path, tmp_path, monkeypatch):
    for name in CACHE:  # the compilation cache of the tests is the kernel's, too
        monkeypatch.setenv(name.upper(), str(getattr(jax.config, name)))
    notebook = nbformat.read(path, as_version=4)
    replaced = 0
    for cell in notebook.cells:
        cell.source, count = re.subn(r"^STEPS = \d+", "STEPS = 2", cell.source, flags=re.M)
        replaced += count
    assert replaced == 1
    nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == FIGURES[path.stem]
    if path.stem == "quantizers":
        _check_numbers("".join(output.get("text", "") for output in outputs if output.get("name") == "stdout"))


def _check_numbers(printed):
    """What the notebook of the quantizers prints, where it does not depend on training."""
    assert "big: bits 10110 -> code 22 " in printed and "little: bits 10110 -> code 13 " in printed
    assert "= 171 -> [3 1 4]" in printed
    assert "W = 65536 tokens: uniform codes show 98.2%" in printed
    summary = ast.literal_eval(re.findall(r"^\{'tokens'.*\}$", printed, re.M)[0])
    assert summary["tokens"] == 2500 and summary["usage"] == summary["used"] / 256
