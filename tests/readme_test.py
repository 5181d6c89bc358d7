import pathlib
import re

import numpy as np

import jaxtok
from jaxtok import recipes

README = pathlib.Path(__file__).parent.parent / "README.md"


def test_index_is_fresh():
    text = README.read_text()
    found = re.search(r"<!-- index: .*? -->\n(.*?)\n<!-- end of index -->", text, re.S)
    assert found and found.group(1) == recipes.index(), "print it again with: jaxtok list --markdown"


def test_code_runs():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    assert len(blocks) == 3
    scope = {"jaxtok": jaxtok}
    exec(blocks[1], scope)  # the quantizer
    np.testing.assert_array_equal(scope["codes"], [[16383], [16383]])
    np.testing.assert_allclose(scope["vectors"], 14**-0.5, rtol=1e-6)
    exec(blocks[2], scope)  # the config
    assert scope["module"].quantizer.bits == 14


def test_the_three_calls_are_the_api():
    from jaxtok.models.speech import SpeechModel

    for name in re.findall(r"model\.(\w+)\(", README.read_text()):
        assert callable(getattr(SpeechModel, name))
