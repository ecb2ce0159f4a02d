"""What is installed, under which name, and how fast it comes up."""

import ast
import os
import re
import shutil
import statistics
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import fastdmf as dmf

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
#: Everything that `import fastdmf` has no business loading.
HEAVY = (
    "numba", "llvmlite", "scipy", "xarray", "pandas", "h5netcdf", "matplotlib", "cvxpy", "pooch", "requests",
    "typer", "tqdm", "threadpoolctl", "cupy", "dask", "loky", "filelock",
)  # fmt: skip


def in_a_new_process(code, path=ROOT):
    """What a program prints that finds packages in ``path`` first."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    choices = {"cwd": path, "env": clean | {"PYTHONPATH": str(path)}, "timeout": 120}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **choices)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def installed_files():
    """What the tree holds to be installed, as paths inside an installation."""
    files = set()
    for folder, place in ((ROOT / "fastdmf", "fastdmf"), (ROOT / "kernels", "fastdmf/kernels")):
        for path in folder.rglob("*"):  # does not follow the symlink
            if path.suffix in {".py", ".cu", ".cuh"} or path.name == "py.typed":
                files.add(f"{place}/{path.relative_to(folder).as_posix()}")
    return files


def test_the_list_of_packages_is_that_of_the_tree():
    listed = SETUPTOOLS["packages"]
    found = {Path(file).parent.as_posix().replace("/", ".") for file in installed_files()}
    assert sorted(listed) == listed
    assert set(listed) == found
    for package in listed:
        folder = package.replace("fastdmf.kernels", "kernels").replace(".", "/")
        assert (ROOT / folder / "__init__.py").is_file()


def test_kernels_lie_at_the_top_and_are_found_below():
    assert SETUPTOOLS["package-dir"] == {"fastdmf": "fastdmf", "fastdmf.kernels": "kernels"}
    link = ROOT / "fastdmf" / "kernels"
    assert link.is_symlink()
    assert os.readlink(link) == "../kernels"


def test_kernels_are_imported_under_one_name():
    """Under a second name every kernel would be compiled twice."""
    sources = [p for top in ("fastdmf", "kernels", "tests", "bench") for p in (ROOT / top).rglob("*.py")]
    assert len(sources) > 50
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            assert not [name for name in names if name.split(".")[0] == "kernels"], path


def test_the_version_stands_in_one_place():
    assert PYPROJECT["project"]["dynamic"] == ["version"]
    assert SETUPTOOLS["dynamic"]["version"] == {"attr": "fastdmf._version.__version__"}
    holders = [
        path.relative_to(ROOT).as_posix()
        for path in [*(ROOT / "fastdmf").rglob("*.py"), *ROOT.glob("*.toml"), *(ROOT / "bench").rglob("*.py")]
        if f'"{dmf.__version__}"' in path.read_text()
    ]
    assert holders == ["fastdmf/_version.py"]
    # A citation cannot compute it, so it has to agree.
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited is not None
    assert cited[1] == dmf.__version__


# --- importing ------------------------------------------------------------------------------------------


def test_importing_is_fast():
    code = "from time import perf_counter as t; a = t(); import fastdmf; print(t() - a)"
    assert statistics.median(float(in_a_new_process(code)) for _ in range(5)) < 0.5


def test_importing_loads_nothing_heavy():
    loaded = in_a_new_process("import sys, fastdmf; print(*sys.modules)").split()
    assert "fastdmf.run" in loaded
    assert "numpy" in loaded
    assert not {name.split(".")[0] for name in loaded} & set(HEAVY)


def test_describing_loads_no_compiler():
    code = """
import sys
import fastdmf as dmf
problem = dmf.Completion.random()
dmf.Sensing.gaussian()
dmf.Record(every=3); dmf.LossBelow(1e-6) | dmf.MaxSteps(3); dmf.GradientDescent(1.0); dmf.Gaussian()
try:
    dmf.run(problem, depth=2, dtype="int8")
except ValueError:
    print(*sys.modules)
"""
    loaded = in_a_new_process(code).split()
    assert "fastdmf.problems.sensing" in loaded
    assert not {"numba", "scipy", "xarray"} & set(loaded)


# --- the wheel ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that the tree stays as it is."""
    pytest.importorskip("setuptools", minversion="77", reason="building a wheel needs setuptools 77")
    pytest.importorskip("build", reason="building a wheel needs build")
    source, out = tmp_path_factory.mktemp("source") / "tree", tmp_path_factory.mktemp("wheel")
    unwanted = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "tests", "docs")
    shutil.copytree(ROOT, source, symlinks=True, ignore=unwanted)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (path,) = out.iterdir()
    return path


def test_the_wheel_holds_everything_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        info = f"fastdmf-{dmf.__version__}.dist-info"
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
        assert archive.read("fastdmf/kernels/cpu/stepping.py") == (
            (ROOT / "kernels/cpu/stepping.py").read_bytes()
        )
    assert len(names) == len(set(names))
    about = {
        f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt")
    }
    assert set(names) == installed_files() | about | {f"{info}/licenses/LICENSE"}
    assert "fastdmf/py.typed" in names
    assert metadata["Version"] == dmf.__version__
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert "fastdmf = fastdmf.cli:main" in entry_points


def test_a_run_from_an_installed_wheel(wheel, tmp_path):
    target = tmp_path / "target"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    subprocess.run([*command, "--no-deps", "--target", str(target), str(wheel)], check=True, timeout=120)
    assert {path.name for path in target.iterdir()} <= {
        "fastdmf", f"fastdmf-{dmf.__version__}.dist-info", "bin",
    }  # fmt: skip
    code = """
import fastdmf as dmf
from fastdmf.kernels.cpu import stepping
problem = dmf.Completion([0, 1], [0, 1], [1.0, 2.0], (2, 2))
result = dmf.run(problem, init=dmf.Identity(1.0), lr=0.5, stop=dmf.MaxSteps(1))
print(dmf.__file__, stepping.__file__, result.product.tolist())
"""
    package = target / "fastdmf"
    # From W = 1 with residuals (0, −1): gradients (0, −1), factors (1, 1.5).
    expected = f"{package / '__init__.py'} {package / 'kernels/cpu/stepping.py'} [[1.0, 0.0], [0.0, 2.25]]"
    assert in_a_new_process(code, target) == expected
