"""What the CUDA compiler makes of the kernels: registers, memory, arguments.  No GPU is needed."""

import functools
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

from fastdmf.kernels.cuda import sources

NVCC = shutil.which(os.environ.get("NVCC", "nvcc"))
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="compiling for GPUs needs nvcc, or $NVCC")

TARGETS = (75, 80, 90, 100)
DTYPES = ("float32", "float64")
#: What a kernel may take: registers of a thread and bytes of shared memory of a block of 256.  With at most
#: 64 registers, four blocks are at home on any multiprocessor.  No stack at all, ever.
BUDGETS = {
    "sampled_residual": (64, 64),
    "entry_residual": (64, 2048),
    "gather": (40, 0),
    "gather_step": (42, 0),
    "sparse_residual": (64, 64),
    "sparse_adjoint": (64, 0),
    "pack": (24, 0),
    "dense_residual": (64, 256),
    "sum_slots": (64, 2048),
    "descend": (24, 0),
    "squares": (48, 2048),
    "pace": (48, 2048),
    "settle": (48, 2048),
    "combine": (32, 0),
    "set_squares": (52, 2048),
    "total": (48, 2048),
    "sampled_change": (64, 0),
    "gather_change": (60, 0),
    "sampled_powers": (64, 0),
    "inner_products": (64, 2048),
    "normalize": (48, 2048),
    "exact_step": (64, 0),
    "advance_each": (128, 2048 + 80),  # two blocks are at home
}


@functools.cache
def compiled(kind, target, dtype):
    """The text of PTX, or what ptxas says while it makes a cubin; with the options that CuPy adds."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "kernels.cu", Path(folder) / "out"
        source.write_text(sources.source(), encoding="utf-8")
        flags = [f"-arch=sm_{target}", "-ftz=true", "-Werror=all-warnings", *sources.options(np.dtype(dtype))]
        command = [NVCC, f"-{kind}", *flags, "-Xptxas=-v", str(source), "-o", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return out.read_text(encoding="utf-8") if kind == "ptx" else done.stderr


@needs_nvcc
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("target", TARGETS)
def test_kernels_keep_within_their_budgets(target, dtype):
    used = {}
    for part in compiled("cubin", target, dtype).split("Compiling entry function '")[1:]:
        name = part[: part.index("'")]
        stack, stores, loads = re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part
        ).groups()
        assert (stack, stores, loads) == ("0", "0", "0"), name
        assert "cumulative stack size" not in part, name
        shared = re.search(r"(\d+) bytes smem", part)
        used[name] = int(re.search(r"Used (\d+) registers", part)[1]), int(shared[1]) if shared else 0
    assert used.keys() == BUDGETS.keys() == sources.KERNELS.keys()
    assert {name: x for name, x in used.items() if x[0] > BUDGETS[name][0] or x[1] > BUDGETS[name][1]} == {}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("target", TARGETS)
def test_the_compiler_that_cupy_calls_takes_the_sources(target, dtype):
    pytest.importorskip("cupy", reason="calling NVRTC as CuPy does needs CuPy")
    from cupy_backends.cuda.libs import nvrtc

    try:
        nvrtc.getVersion()
    except Exception as error:  # whatever a missing library is reported as
        pytest.skip(f"CuPy finds no NVRTC: {error}")
    program = nvrtc.createProgram(sources.source(), "kernels.cu", [], [])
    nvrtc.compileProgram(program, [*sources.options(np.dtype(dtype)), "-ftz=true", f"-arch=sm_{target}"])
    assert len(nvrtc.getCUBIN(program)) > 10_000


def entries(ptx):
    """Kernels by name: what they take, and what they do."""
    found = re.findall(r"\.visible \.entry (\w+)\(([^)]*)\)(.*?)\n}", ptx, re.DOTALL)
    return {name: (re.findall(r"\.param \.(\w+)", taken), body) for name, taken, body in found}


@needs_nvcc
@pytest.mark.parametrize("dtype", DTYPES)
def test_kernels_take_what_launchers_give(dtype):
    real = {"float32": "f32", "float64": "f64"}[dtype]
    in_ptx = dict.fromkeys("RILD", "u64") | {"r": real, "i": "u32", "l": "u64", "d": "f64"}
    given = {name: [in_ptx[kind] for kind in kinds] for name, kinds in sources.KERNELS.items()}
    assert {name: taken for name, (taken, _) in entries(compiled("ptx", 75, dtype)).items()} == given
    sizes = {
        kind: np.dtype(number).itemsize for kind, number in sources.number_types(np.dtype(dtype)).items()
    }
    assert sizes == {"r": np.dtype(dtype).itemsize, "i": 4, "l": 8, "d": 8}


def test_pointers_are_of_the_types_that_launchers_give():
    """PTX says no more than that they are pointers; the source does."""
    letters = {"real": "R", "int": "I", "long long": "L", "double": "D"}
    declared = {}
    for name, taken in re.findall(r"__launch_bounds__\([^)]*\)\s+(\w+)\(([^)]*)\)", sources.source()):
        kinds = ""
        for parameter in taken.split(","):
            kind, pointer = re.match(r"\s*(?:const )?(real|int|long long|double)(\*?)", parameter).groups()
            kinds += letters[kind] if pointer else letters[kind].lower()
        declared[name] = kinds
    assert declared == sources.KERNELS


@needs_nvcc
def test_a_block_reads_what_it_writes_past_the_cache_for_constants():
    """Only values and lists of the problem may be read through it, never a trial's home."""
    body = entries(compiled("ptx", 75, "float32"))["advance_each"][1]
    assert body.count("ld.global.nc.f32") == 1  # a value to compare an entry with
    assert re.search(r"\bld\.f32", body)


@needs_nvcc
def test_float32_is_not_computed_in_float64():
    float32_only = "gather gather_step gather_change sampled_change sampled_powers"
    float32_only += " combine sparse_adjoint sum_slots descend"
    for name in float32_only.split():
        body = entries(compiled("ptx", 75, "float32"))[name][1]
        assert "fma.rn.ftz.f32" in body or "add.ftz.f32" in body
        assert not re.search(r"\b(fma|add|sub|mul|div)\.\w+\.f64", body), name


def test_constants_of_the_sources_and_of_python_agree():
    text = sources.source()
    assert f"WARP = {sources.WARP}, BLOCK = {sources.BLOCK}," in text
    assert f"over ``terms`` ≤ {sources.COMBINED} terms" in text
    assert sources.KERNELS["combine"].count("r") == sources.COMBINED
    slots = re.search(r"enum Slot \{ ([^}]*) \};", text)[1].split(", ")
    assert [getattr(sources, slot) for slot in slots] == list(range(sources.SLOTS + 1))
