"""Every example that the documentation shows does what it says."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import fastdmf as dmf

ROOT = Path(__file__).parent.parent
MODULES = [m.name for m in pkgutil.walk_packages(dmf.__path__, "fastdmf.") if m.name != "fastdmf.__main__"]


def test_examples_in_docstrings():
    attempted = 0
    for name in ["fastdmf", *MODULES]:
        failed, tried = doctest.testmod(importlib.import_module(name))
        assert failed == 0, name
        attempted += tried
    assert attempted >= 5


def test_examples_in_the_readme(capsys):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf8"), re.DOTALL)
    assert len(blocks) >= 2
    namespace = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    assert str(namespace["result"].status) == "converged"
    assert namespace["state"].step == 1000
    assert "converged" in capsys.readouterr().out


def test_every_public_name_is_documented():
    for name in dmf.__all__:
        assert name == "__version__" or (getattr(dmf, name).__doc__ or "").strip(), name
