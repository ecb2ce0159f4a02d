"""Machine code on disk is used again, and never after a change of any kernel source."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import pytest

ROOT = Path(__file__).parent.parent

#: Calls one cached kernel, `stepping.entries_at`, whose helpers lie in other files.
CALL = """
import numpy as np
import fastdmf as dmf
from fastdmf.backends import bind_objective
from fastdmf.backends.cpu_memory import Matrices
from fastdmf.backends.cpu_objective import Scratch
from fastdmf.kernels.cpu import stepping

problem = dmf.Completion([0], [0], [0.0], (2, 2), test=([0, 1], [1, 0], [0.0, 0.0]))
factors = [np.eye(2), np.full((2, 2), 3.0)]
objective = bind_objective(problem, dmf.Product(2))
layout = objective.layout
point = Matrices.copies(layout.inward(factors), objective.dtype, objective.rows)
error = objective.test_error(point, Scratch(objective), factors)
stats = stepping.entries_at.stats
print(dmf.__file__, error, sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


def test_the_cache_is_used_and_never_stale(tmp_path):
    package = tmp_path / "fastdmf"
    shutil.copytree(ROOT / "fastdmf", package, ignore=shutil.ignore_patterns("__pycache__"))
    assert not (package / "kernels").is_symlink()

    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA")}
    environment["PYTHONPATH"] = str(tmp_path)

    def call():
        command = [sys.executable, "-c", CALL]
        choices = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "timeout": 120}
        done = subprocess.run(command, **choices)
        assert done.returncode == 0, done.stderr
        file, error, hits, misses = done.stdout.split()
        assert Path(file).parent == package
        return float(error), int(hits), int(misses)

    assert call() == (3.0, 0, 1)
    assert call() == (3.0, 1, 0)

    helper = package / "kernels" / "cpu" / "vectors.py"  # a helper of entries_at, in another file
    source = helper.read_text()
    start = (
        "nothing = ir.Constant(numbers.type, [0.0] * numbers.type.count)"  # what inner products are added to
    )
    assert source.count(start) == 1
    helper.write_text(source.replace(start, start.replace("0.0", "2.0")))
    assert call() == (5.0, 0, 1)
    assert call() == (5.0, 1, 0)

    helper.write_text(source)
    assert call() == (3.0, 0, 1)

    rules = package / "kernels" / "flow_rules.py"  # what kernels for the CPU share with others
    rules.write_text(rules.read_text() + "# changed\n")
    assert call() == (3.0, 0, 1)

    # After an upgrade in which a type has gone that the index of the old machine code names.
    for path in package.rglob("*.py"):
        path.write_text(path.read_text().replace("Chains", "Linked"))
    assert call() == (3.0, 0, 1)


#: The end of a few steps, in hexadecimal; rows are longer than what is handled at once.
END = """
import hashlib, sys
import fastdmf as dmf

problem = dmf.Completion.random((130, 120), observed=3000)
loop = dmf.Loop(problem, dmf.Product(2), dmf.GradientDescent(lr=20.0), threads=int(sys.argv[1]))
state = loop.advance(loop.init(dmf.Gaussian(product_scale=0.1), seed=0), 10)
print(hashlib.sha256(b"".join(w.tobytes() for w in state.factors)).hexdigest(), state.loss.hex())
"""


@pytest.mark.skipif(numba.get_num_threads() < 2, reason="needs two threads")
def test_bits_do_not_depend_on_what_was_compiled_when(tmp_path):
    """Code for one thread from the cache, that for two compiled beside it: each has its own helpers."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA")}
    environment["NUMBA_CACHE_DIR"] = str(tmp_path)

    def end(threads):
        command = [sys.executable, "-c", END, str(threads)]
        choices = {"env": environment, "cwd": ROOT, "capture_output": True, "text": True, "timeout": 120}
        done = subprocess.run(command, **choices)
        assert done.returncode == 0, done.stderr
        return done.stdout

    compiled = end(1)
    assert end(2) == compiled
    assert end(1) == compiled
