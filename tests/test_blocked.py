"""Supports in tiles give what plain NumPy gives, and no bit depends on the number of threads."""

import threading
import time

import numba
import numpy as np
import pytest

import fastdmf as dmf
from fastdmf.backends import cpu_binding
from fastdmf.backends.tiles import Tiling, blocks_support, tiling_of
from fastdmf.kernels.cpu.blocked import Blocks
from fastdmf.kernels.cpu.completion import Pattern
from tests import naive

TOLERANCE = {"float64": 1e-13, "float32": 2e-5}
TILINGS = {
    "one tile": Tiling(1, 1, 100, 100),
    "several each way": Tiling(5, 3, 100, 100),
    "single rows and columns": Tiling(100, 100, 1, 1),
    "cut where they are long": Tiling(1, 1, 7, 5),
}
OPTIMIZERS = {
    "descent": ("GradientDescent", {"lr": 0.5}),
    "momentum": ("GradientDescent", {"lr": 0.1, "momentum": 0.9}),
    "group RMSprop": ("GroupRMSprop", {"lr": 0.05}),
    "line search": ("ExactLineSearch", {}),
}


@pytest.fixture
def tiled(monkeypatch):
    """A function that makes every support be cut in the given way; None leaves all supports whole."""

    def force(tiling):
        monkeypatch.setattr(cpu_binding, "tiling_of", lambda *_problem: tiling)

    return force


def uneven(symmetric=False):
    """Rows and columns with all, some and no entries; the last block of each kind is a part of one."""
    shape = (31, 31) if symmetric else (31, 23)
    rng = np.random.default_rng(0)
    seen = rng.random(shape) < 0.15
    seen[3], seen[:, 4] = True, True
    seen[8:17], seen[:, 9:16], seen[-1], seen[:, -1] = False, False, False, False
    rows, cols = rng.permutation(np.argwhere(seen)).T
    values = rng.standard_normal(rows.size).astype(np.float32)
    return dmf.Completion(rows, cols, values, shape)


def form_of(loop):
    return type(loop.engine.objective.support)


def start(factorization, shape, dtype, seed=0):
    factors = dmf.Gaussian(product_scale=0.7).draw(factorization, shape, np.random.default_rng(seed))
    return [w.astype(dtype) for w in factors]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("tiling", TILINGS)
def test_gradients(tiled, tiling, symmetric, dtype):
    tiled(TILINGS[tiling])
    objective = naive.objective_of(uneven(symmetric), symmetric)
    for width in (1, 7, 8, 16, 17, 64, 113, 225, 500):
        problem = uneven(symmetric)
        factorization = dmf.Symmetric(width) if symmetric else dmf.Product(2, (width,))
        factors = start(factorization, problem.shape, dtype)
        loss, gradients = dmf.loss_and_gradients(problem, factors, symmetric=symmetric)
        (bound,) = problem.bound.values()
        assert isinstance(bound.support, Blocks)
        wide = [w.astype(np.float64) for w in factors]
        assert loss == pytest.approx(objective.loss(wide), rel=TOLERANCE[dtype]), width
        for gradient, wanted in zip(gradients, objective.gradients(wide), strict=True):
            assert np.linalg.norm(gradient - wanted) < TOLERANCE[dtype] * np.linalg.norm(wanted), width


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("factorization", [dmf.Product(2, (5,)), dmf.Product(3, (9, 6)), dmf.Symmetric(6)])
def test_steps(tiled, factorization, optimizer, dtype):
    tiled(TILINGS["several each way"])
    symmetric = isinstance(factorization, dmf.Symmetric)
    problem = uneven(symmetric)
    name, settings = OPTIMIZERS[optimizer]
    factors = start(factorization, problem.shape, dtype)
    loop = dmf.Loop(problem, factorization, getattr(dmf, name)(**settings), dtype=dtype)
    assert form_of(loop) is Blocks
    state = loop.advance(loop.init(dmf.Factors(factors)), 30)
    path = naive.trajectory(
        naive.objective_of(problem, symmetric), factors, getattr(naive, name)(**settings), 30
    )
    assert path.losses[-1] < 0.9 * path.losses[0]
    assert state.loss == pytest.approx(path.losses[-1], rel=100 * TOLERANCE[dtype])
    for w, wanted in zip(state.factors, path.factors, strict=True):
        assert np.linalg.norm(w - wanted) < 100 * TOLERANCE[dtype] * np.linalg.norm(wanted)


def test_the_order_of_observations_does_not_change_a_bit(tiled):
    tiled(TILINGS["several each way"])
    p = uneven()
    order = np.random.default_rng(1).permutation(p.values.size)
    shuffled = dmf.Completion(p.rows[order], p.cols[order], p.values[order], p.shape)
    factors = start(dmf.Product(2, (9,)), p.shape, np.float64)
    (a, slopes), (b, again) = (dmf.loss_and_gradients(q, factors) for q in (p, shuffled))
    assert a == b and all(map(np.array_equal, slopes, again))


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("factorization", [dmf.Product(2, (20,)), dmf.Symmetric(20)])
def test_the_number_of_threads_does_not_change_a_bit(tiled, factorization, dtype):
    tiled(Tiling(9, 4, 100, 100))
    problem = dmf.Completion.random((200, 200), observed=10_000)
    ends = []
    for threads in (1, 2):
        loop = dmf.Loop(problem, factorization, dmf.GradientDescent(lr=40.0), dtype=dtype, threads=threads)
        assert form_of(loop) is Blocks
        first = loop.init(dmf.Gaussian(product_scale=0.1), seed=0)
        ends.append(loop.advance(first, 50))
        assert ends[-1].loss < 0.9 * first.loss
    assert ends[0].loss == ends[1].loss
    assert all(map(np.array_equal, ends[0].factors, ends[1].factors))


def test_a_step_can_be_cancelled(tiled):
    """One step takes seconds; the flag is looked at between blocks, in each half of the gradient."""
    tiled(Tiling(64, 4, 2000, 2000))
    rows, cols = np.divmod(np.arange(3_000_000, dtype=np.int32), np.int32(1500))
    problem = dmf.Completion(rows, cols, np.sin(rows + 0.1 * cols), (2000, 1500))
    loop = dmf.Loop(problem, dmf.Product(2, (640,)), dmf.GradientDescent(1e-3))
    trajectory = loop.start(dmf.Gaussian(), seed=0)
    trajectory.advance(1)
    begin = time.perf_counter()
    trajectory.advance(1)
    whole = time.perf_counter() - begin
    for part in (0.2, 0.6):
        timer = threading.Timer(part * whole, trajectory.cancel.fill, (1,))
        timer.start()
        step = trajectory.step
        assert trajectory.advance(1000).name == "CANCELLED"
        pressed = time.perf_counter()
        timer.join()
        assert trajectory.step - step <= 1 and time.perf_counter() - pressed < 0.5
        trajectory.cancel[0] = 0
    assert np.isfinite(trajectory.loss)


def test_tiles_number_every_entry_once():
    problem = uneven()
    for tiling in TILINGS.values():
        blocks, order, (rows, cols) = blocks_support(problem.rows, problem.cols, problem.shape, tiling)
        assert np.array_equal(np.sort(order), np.arange(problem.values.size))
        assert np.array_equal(rows, problem.rows[order]) and np.array_equal(cols, problem.cols[order])
        tile_row = np.searchsorted(blocks.row_cuts, rows, side="right") - 1
        tile_col = np.searchsorted(blocks.col_cuts, cols, side="right") - 1
        ranks = list(zip(tile_row, tile_col, rows, cols, strict=True))
        assert ranks == sorted(ranks)
        assert np.array_equal(blocks.cols, cols - blocks.col_cuts[tile_col])
        assert np.array_equal(blocks.rows, (rows - blocks.row_cuts[tile_row])[blocks.order])
        for cuts, lines, longest in (
            (blocks.row_cuts, 31, tiling.tallest),
            (blocks.col_cuts, 23, tiling.widest),
        ):
            assert cuts[0] == 0 and cuts[-1] == lines
            assert np.diff(cuts).min() > 0 and np.diff(cuts).max() <= 1.5 * longest


def test_large_problems_are_cut_and_small_ones_are_not():
    single, double = np.dtype("float32"), np.dtype("float64")
    assert tiling_of((100, 100), 2000, 100, double) is None
    assert tiling_of((10**6, 10**6), 10**6, 64, single) is None  # hardly an entry a row
    assert tiling_of((10**5, 10**4), 10**7, 0, single) is None  # nothing is gathered
    assert tiling_of((943, 1682), 10**5, 943, single) is not None
    large = tiling_of((10**5, 10**4), 10**7, 64, single)
    assert large.down >= 64 and large.across >= 8
    tall = tiling_of((10**6, 1000), 10**8, 1, single)
    assert max(1.5 * tall.tallest, 1.5 * tall.widest) < 2**16
    assert form_of(dmf.Loop(uneven(), dmf.Product(2), dmf.GradientDescent(1.0))) is Pattern


def test_depth_1_gathers_nothing():
    rng = np.random.default_rng(0)
    n, p = 3000, 2500
    drawn = rng.choice(n * p, 100_000, replace=False)
    problem = dmf.Completion(*np.divmod(drawn, p), rng.standard_normal(drawn.size), (n, p))
    forms = {
        depth: form_of(dmf.Loop(problem, dmf.Product(depth, (64,) * (depth - 1)), dmf.GradientDescent(1.0)))
        for depth in (1, 2)
    }
    assert forms == {1: Pattern, 2: Blocks}
