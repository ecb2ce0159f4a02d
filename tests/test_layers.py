"""Who may import whom, and what kernels may not be told about numbers."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastdmf as dmf

ROOT = Path(__file__).parent.parent
SOURCES = sorted(p for top in ("fastdmf", "kernels") for p in (ROOT / top).rglob("*.py"))


def test_import_contracts_are_kept():
    pytest.importorskip("importlinter", reason="checking the layers needs import-linter")
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " kept, 0 broken" in done.stdout


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide who imports whom"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(prefix):
    """Files that import a package, anywhere in them."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if any(f"{name}.".startswith(f"{prefix}.") for name in imports(path))
    }


def test_only_backends_import_kernels():
    outside = {path for path in importers("fastdmf.kernels") if not path.startswith("kernels/")}
    assert "fastdmf/backends/cpu.py" in outside
    assert all(path.startswith("fastdmf/backends/") for path in outside)


def test_only_the_cuda_code_imports_cupy():
    assert all(
        path == "fastdmf/backends/cuda.py" or path.startswith("kernels/cuda/") for path in importers("cupy")
    )


def test_kernels_import_arrays_and_compilers_only():
    allowed = {"numpy", "numba", "llvmlite", "cupy", "fastdmf", *sys.stdlib_module_names}
    for path in SOURCES:
        if path.is_relative_to(ROOT / "kernels"):
            assert {name.split(".")[0] for name in imports(path)} <= allowed, path
            ours = {name for name in imports(path) if name.split(".")[0] == "fastdmf"}
            assert all(name.startswith("fastdmf.kernels") for name in ours), path


# --- NaN and infinity survive -----------------------------------------------------------------------------


def dispatchers():
    for path in (ROOT / "kernels" / "cpu").glob("*.py"):
        module = importlib.import_module(f"fastdmf.kernels.cpu.{path.stem}")
        for name, value in vars(module).items():
            if hasattr(value, "targetoptions"):
                yield f"{path.stem}.{name}", value


def test_no_kernel_is_told_that_numbers_are_finite():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "fastmath":
                assert not isinstance(node.value, ast.Constant), path
    found = dict(dispatchers())
    assert {"stepping.advance", "stepping.entries_at", "completion.sampled_products"} <= set(found)
    for name, dispatcher in found.items():
        flags = dispatcher.targetoptions["fastmath"]
        assert isinstance(flags, set), name
        assert not flags & {"fast", "nnan", "ninf"}, name


def test_a_nan_stops_a_run():
    """From W = x² − x², one long step leads to ∞ · ∞ − ∞ · ∞."""
    x, lr = 2.0**330, 2.0**700  # powers of two, so that x² − x² is zero in whatever order
    start = [np.array([[x], [-x]]), np.array([[x, x]])]
    problem = dmf.Completion([0], [0], [1.0], (1, 1), loss="half_sum")
    loss, (down, up) = dmf.loss_and_gradients(problem, start)
    assert loss == 0.5
    with np.errstate(over="ignore", invalid="ignore"):
        (moved,) = ((start[1] - lr * up) @ (start[0] - lr * down)).ravel()
    assert np.isnan(moved)

    width = dmf.Product(2, (2,))
    result = dmf.run(problem, factorization=width, init=dmf.Factors(start), lr=lr, stop=dmf.MaxSteps(100))
    assert (str(result.status), result.steps, result.loss) == ("diverged", 0, 0.5)
    assert all(map(np.array_equal, result.factors, start))
