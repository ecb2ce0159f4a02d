"""The CUDA kernels, executed on the CPU: results, schedules, sanitizers, and bugs that must not pass."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastdmf.kernels.cuda import sources
from tests import cuda_cases, cuda_shim
from tests.cuda_shim import ShimDevice

pytestmark = pytest.mark.skipif(bool(cuda_shim.MISSING), reason=f"the CUDA shim {cuda_shim.MISSING}")

ROOT = Path(__file__).parent.parent
SCHEDULES = (0, 1, 2, 3)
DTYPES = ("float32", "float64")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", cuda_cases.CASES)
def test_a_kernel_equals_numpy_and_no_schedule_changes_a_bit(kernel, dtype):
    dtype = np.dtype(dtype)
    runs = [cuda_cases.check(kernel, ShimDevice(s).load(dtype), dtype) for s in SCHEDULES]
    for other in runs[1:]:
        assert other.keys() == runs[0].keys()
        assert all(other[name].tobytes() == runs[0][name].tobytes() for name in other)


def test_every_kernel_has_a_case():
    assert set(cuda_cases.CASES) == set(sources.KERNELS)


@pytest.mark.parametrize("kernel", cuda_cases.CASES)
def test_a_kernel_that_comes_after_an_event_does_nothing(kernel):
    dtype = np.dtype("float64")
    launch = ShimDevice().load(dtype)
    takes = re.search(rf"\) {kernel}\(([^)]*)\)", sources.source())[1].split(",")
    (at,) = [k for k, parameter in enumerate(takes) if re.search(r"\bstates?$", parameter)]
    seen = []

    def stopped(name, grid, *arguments):
        assert arguments[at].shape[-1:] == (sources.SLOTS,)
        arguments[at][..., sources.EVENT] = 1.0
        after = [a for a in arguments if isinstance(a, np.ndarray)]
        before = [a.copy() for a in after]
        launch(name, grid, *arguments)
        seen.append(name)
        assert all(a.tobytes() == b.tobytes() for a, b in zip(after, before, strict=True))

    cuda_cases.CASES[kernel](stopped, dtype)
    assert kernel in seen


@pytest.mark.parametrize("width", [1, 31, 32, 33, 70])
def test_widths_around_a_warp(width):
    o = cuda_cases.Observed(np.dtype("float64"), width=width)
    out = cuda_cases.filled(o.left.shape, float)
    launch = ShimDevice(2).load(o.dtype)
    grid = cuda_cases.grid_of(o.n, width)
    launch("gather", grid, *o.by_row, o.z, o.right, o.n, width, cuda_cases.going(), out)
    assert cuda_cases.deviation(out, o.dense_z @ o.right) < 1e-14
    r = np.sum(o.left[o.rows] * o.right[o.cols], axis=1) - o.values
    z, partials = np.full(r.size, np.nan), np.full(10, np.nan)
    launch(
        "sampled_residual", (10,), o.left, o.right, o.rows, o.cols, o.values, 1.0, r.size, width, 2,
        cuda_cases.going(), z, partials,
    )  # fmt: skip
    assert cuda_cases.deviation(z, r) < 1e-13
    assert partials.sum() == pytest.approx(np.sum(r**2), rel=1e-13)


def test_shares_cover_everything_and_depend_on_the_size_alone():
    for unit in (1, 8):
        for size in (1, 7, 4096, 4097, 10**7):
            per_worker, blocks = sources.share(size, unit)
            assert (blocks - 1) * unit * per_worker < size <= blocks * unit * per_worker
            assert blocks <= 4096


# --- sanitizers -------------------------------------------------------------------------------------------


def sanitized(tmp_path, sanitizer, code, dtype="float64", kernels=tuple(cuda_cases.CASES)):
    """Kernels in a process of their own, under a sanitizer: exit status and what it said."""
    source = tmp_path / "kernels.cu"
    source.write_text(code, encoding="utf-8")
    schedule = {"asan": 0, "tsan": 2}[
        sanitizer
    ]  # in ascending order the first to be out of bounds is next to them
    libraries = {"asan": ("libasan.so", "libubsan.so"), "tsan": ("libtsan.so",)}[sanitizer]
    paths = [
        subprocess.run(
            [cuda_shim.CXX, f"-print-file-name={lib}"], capture_output=True, text=True
        ).stdout.strip()
        for lib in libraries
    ]
    if not all(Path(p).is_absolute() for p in paths):
        pytest.skip(f"the compiler has no {', '.join(libraries)}")
    environment = os.environ | {
        "LD_PRELOAD": " ".join(paths), "PYTHONPATH": str(ROOT), "FASTDMF_SHIM_FOLDER": str(cuda_shim.FOLDER),
        "ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1 exitcode=66", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
    }  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "tests.cuda_cases",
        sanitizer,
        str(schedule),
        dtype,
        str(source),
        *kernels,
    ]
    choices = {"cwd": ROOT, "env": environment, "timeout": 240}
    done = subprocess.run(command, capture_output=True, text=True, **choices)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.sanitizers
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sanitizer", ["asan", "tsan"])
def test_no_sanitizer_finds_anything(tmp_path, sanitizer, dtype):
    status, said = sanitized(tmp_path, sanitizer, sources.source(), dtype)
    assert status == 0, said
    assert (
        f"{len(sources.KERNELS)} kernels ran" in said
        and "Sanitizer" not in said
        and "runtime error" not in said
    ), said


# --- planted bugs -----------------------------------------------------------------------------------------


def planted(sound, broken):
    """The sources with one place changed."""
    code = sources.source()
    assert code.count(sound) == 1, f"{sound!r} stands {code.count(sound)} times in the sources"
    return code.replace(sound, broken)


#: Name → sanitizer, what it must say, the kernel it concerns, and the change.
BUGS = {
    "a guard forgotten": (
        "asan", r"AddressSanitizer: heap-buffer-overflow \S*kernels:\d+", "descend",
        ("if (here >= size) return;\n  real v", "real v"),
    ),
    "shared memory too small": (
        "asan", r"AddressSanitizer: heap-buffer-overflow \S*kernels:\d+", "sampled_residual",
        ("of_warps[threadIdx.x / WARP] = x;", "of_warps[threadIdx.x / WARP + 1] = x;"),
    ),
    "an index that overflows": (
        "asan", "runtime error: signed integer overflow", "sampled_residual",
        ("if (lane == 0) z[e] = scale * difference;",
         "int code = cols[e] + 2; for (int k = 0; k < 8; ++k) code *= 23 + lane; "
         "if (lane == 0) z[e] = code == 1 ? 0 : scale * difference;"),
    ),
    "no barrier before the warps' sums are read": (
        "tsan", r"ThreadSanitizer: data race \S*kernels:\d+", "sampled_residual",
        ("of_warps[threadIdx.x / WARP] = x;\n  __syncthreads();", "of_warps[threadIdx.x / WARP] = x;"),
    ),
    "no barrier before the slots are used again": (
        "tsan", r"ThreadSanitizer: data race \S*kernels:\d+", "settle",
        ("__syncthreads();  // before the slots are used again", ""),
    ),
    "no barrier inside the tree": (
        "tsan", r"ThreadSanitizer: data race \S*kernels:\d+", "squares",
        ("slots[t] += slots[t + half];\n    __syncthreads();", "slots[t] += slots[t + half];"),
    ),
    "no barrier before the step is read": (
        "tsan", r"ThreadSanitizer: data race \S*kernels:\d+", "advance_each",
        ("__syncthreads();  // before the step is read", ""),
    ),
    "no barrier after a product along a chain": (
        "tsan", r"ThreadSanitizer: data race \S*kernels:\d+", "advance_each",
        ("t.prefix(j), n, inner, p);\n    __syncthreads();", "t.prefix(j), n, inner, p);"),
    ),
    "no barrier after a step": (
        "tsan", r"ThreadSanitizer: data race \S*kernels:\d+", "advance_each",
        ("t.point[k]);\n  }\n  __syncthreads();", "t.point[k]);\n  }"),
    ),
    "no barrier before the next rows' sums are written": (
        "tsan", r"ThreadSanitizer: data race \S*kernels:\d+", "dense_residual",
        ("__syncthreads();  // before the next rows' sums are written", ""),
    ),
    "blocks that share a slot": (
        "tsan", r"ThreadSanitizer: data race \S*kernels:\d+", "dense_residual",
        ("slots + blockIdx.x * width", "slots"),
    ),
    "two blocks in one home": (
        "tsan", r"ThreadSanitizer: data race \S*kernels:\d+", "advance_each",
        ("(real*)homes[blockIdx.x]", "(real*)homes[0]"),
    ),
    "a row too many": (
        "asan", r"AddressSanitizer: heap-buffer-overflow \S*kernels:\d+", "advance_each",
        ("k < owners * t.width", "k < (owners + 1) * t.width"),
    ),
    "a power too many": (
        "asan", r"AddressSanitizer: heap-buffer-overflow \S*kernels:\d+", "sampled_powers",
        ("t <= lefts + rights; ++t", "t <= lefts + rights + 1; ++t"),
    ),
    "blocks that write one another's sum": (
        "tsan", r"ThreadSanitizer: data race \S*kernels:\d+", "inner_products",
        ("partials[(long long)blockIdx.x * blocks + blockIdx.y]", "partials[blockIdx.x + blockIdx.y]"),
    ),
    "blocks that multiply an element twice": (
        "tsan", r"ThreadSanitizer: data race \S*kernels:\d+", "normalize",
        ("i < last; i += BLOCK) gradient[i] *=", "i < min(last + 1, size); i += BLOCK) gradient[i] *="),
    ),
    "a step that every thread looks for": (
        "tsan", r"ThreadSanitizer: data race \S*kernels:\d+", "exact_step",
        ("if (state[EVENT] != GOING || threadIdx.x != 0) return;", "if (state[EVENT] != GOING) return;"),
    ),
    "blocks that write one sum": (
        "tsan", r"ThreadSanitizer: data race \S*kernels:\d+", "sampled_residual",
        ("of_warps[k];\n  partials[blockIdx.x] = total;", "of_warps[k];\n  partials[0] += total;"),
    ),
    "a stage past the last set": (
        "asan", r"AddressSanitizer: heap-buffer-overflow \S*kernels:\d+", "combine",
        ("sets[to * size + here] = sum;", "sets[(to + 1) * size + here] = sum;"),
    ),
    "a set that is changed where others read it": (
        "tsan", r"ThreadSanitizer: data race \S*kernels:\d+", "combine",
        ("sets[to * size + here] = sum;", "sets[to * size + (here + 1) % size] = sum;"),
    ),
    "blocks that write one square": (
        "tsan", r"ThreadSanitizer: data race \S*kernels:\d+", "set_squares",
        ("(long long)blockIdx.y * blocks + blockIdx.x] = total", "(long long)blockIdx.y * blocks] = total"),
    ),
    "no barrier before the tree": (
        "tsan", r"ThreadSanitizer: data race \S*kernels:\d+", "total",
        ("slots[t] = x;\n  __syncthreads();", "slots[t] = x;"),
    ),
    "lanes that all write": (
        "tsan", r"ThreadSanitizer: data race \S*kernels:\d+", "sampled_change",
        ("if (lane == 0) w_dot[e] = w;", "w_dot[e] = w;"),
    ),
    "columns past the width": (
        "asan", r"AddressSanitizer: heap-buffer-overflow \S*kernels:\d+", "gather_change",
        ("if (i >= rows || q >= width) return;\n  real sum = 0;", "if (i >= rows) return;\n  real sum = 0;"),
    ),
}  # fmt: skip


@pytest.mark.sanitizers
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(tmp_path, bug):
    sanitizer, expected, kernel, change = BUGS[bug]
    status, said = sanitized(tmp_path, sanitizer, planted(*change), kernels=(kernel,))
    assert status != 0, said
    assert re.search(expected, said), said


DIVERGENT = {
    "barrier": (
        "const double total = slots[0];",
        "if (t < 7) __syncthreads();\n  const double total = slots[0];",
    ),
    "shuffle": (
        "w = sum_over<WARP>(w);\n    const real",
        "if (lane < 20) w = sum_over<WARP>(w);\n    const real",
    ),
    "barrier of one trial": (
        "__syncthreads();  // before the step is read",
        "if (threadIdx.x > 0) __syncthreads();  // before the step is read",
    ),
}


@pytest.mark.parametrize("what", DIVERGENT)
def test_threads_that_part_are_found(what):
    code = planted(*DIVERGENT[what])
    kernel = {"barrier": "squares", "shuffle": "sampled_residual"}.get(what, "advance_each")
    launch = ShimDevice(code=code).load(np.dtype("float64"))
    with pytest.raises(RuntimeError, match=f"divergent {what.split()[0]} at line"):
        cuda_cases.check(kernel, launch, np.dtype("float64"))
