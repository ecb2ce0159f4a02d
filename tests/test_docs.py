"""Every example that the documentation shows does what it says."""

import doctest
import importlib.util
import pkgutil
import re
import tomllib
from pathlib import Path

import pytest

import fastdmf as dmf
from fastdmf.kernels.cuda import sources

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


def test_the_page_on_cuda_has_the_counts_that_stand_beside_the_kernels():
    spec = importlib.util.spec_from_file_location("cuda_table", ROOT / "bench" / "cuda_table.py")
    cuda_table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cuda_table)
    page = cuda_table.PAGE.read_text(encoding="utf-8")
    assert cuda_table.BEGIN + "\n" + cuda_table.table() + "\n" + cuda_table.END in page
    assert {row.kernel for row in cuda_table.rows()} == set(sources.KERNELS)
    # Formulas are read as they are meant.
    sizes = {"S": 3.0, "width": 5.0, "n": 7.0}
    assert (
        cuda_table.value("S (2 width b + 8) + 3 n² b / 2", sizes, 4) == 3 * (2 * 5 * 4 + 8) + 3 * 49 * 4 / 2
    )
    times = {row.kernel: cuda_table.microseconds(row, 4) for row in cuda_table.rows()}
    step = times["sampled_residual"] + 2 * times["gather_step"]
    assert f"{step / 1e3:.1f} ms for a step on 10⁷ entries" in (ROOT / "README.md").read_text(encoding="utf8")


def test_pages_errors_and_extras_name_the_same_cupy():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
    page = (ROOT / "docs" / "cuda.md").read_text(encoding="utf8")
    errors = (ROOT / "kernels" / "cuda" / "cupy_device.py").read_text(encoding="utf8")
    for extra in ("cuda", "cuda12"):
        (wanted,) = project["optional-dependencies"][extra]
        assert f"`{extra}`" in page
        assert f"'{wanted.split('>=')[0]}'" in page and errors.count(f"'{wanted.split('>=')[0]}'") == 2
