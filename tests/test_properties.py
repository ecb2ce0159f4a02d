"""What must hold on every instance: conservation laws, symmetries, and the geometry of descent."""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastdmf as dmf
from tests import naive

STEPS = 300
SHAPE = (8, 10)
WIDTHS = (9, 7, 11)

few = settings(max_examples=10, derandomize=True, deadline=None)
seeds = st.integers(0, 2**32 - 1)
depths = st.integers(2, 4)
kinds = st.sampled_from(["completion", "dense"])


@dataclass(frozen=True)
class Instance:
    """A problem and a start, in plain arrays that the tests transform; rows = None means sensing."""

    values: np.ndarray
    factors: list
    lr: float
    shape: tuple[int, int]
    rows: Any = None
    cols: Any = None
    matrices: Any = None

    @classmethod
    def random(cls, kind, seed, depth):
        rng = np.random.default_rng(seed)
        shapes = dmf.Product(depth, WIDTHS[: depth - 1]).factor_shapes(SHAPE)
        factors = [rng.standard_normal(s) * 0.8 ** (1 / depth) / np.sqrt(s[1]) for s in shapes]
        if kind == "completion":
            p = dmf.Completion.random(SHAPE, 2, 40, seed=seed, norm=3.0)
            return cls(p.values, factors, 2.0 / depth, SHAPE, rows=p.rows, cols=p.cols)
        p = dmf.Sensing.gaussian(SHAPE, 2, 40, symmetric=False, seed=seed, norm=3.0)
        return cls(p.values, factors, 2.0 / depth, SHAPE, matrices=p.matrices)

    @property
    def problem(self):
        if self.matrices is None:
            return dmf.Completion(self.rows, self.cols, self.values, self.shape)
        return dmf.Sensing(self.matrices, self.values)

    @property
    def factorization(self):
        return dmf.Product(len(self.factors), tuple(w.shape[0] for w in self.factors[:-1]))

    def start(self, device, optimizer=None):
        loop = dmf.Loop(
            self.problem, self.factorization, optimizer or dmf.GradientDescent(self.lr), device=device
        )
        return loop, loop.init(dmf.Factors(self.factors))

    def end(self, device, steps=STEPS):
        loop, state = self.start(device)
        end = loop.advance(state, steps)
        assert end.loss < 0.1 * state.loss, "hardly any descent: the comparison would prove nothing"
        return end


def close(a, b, tolerance=1e-11):
    return np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b)


def random_orthogonal(rng, size):
    return np.linalg.qr(rng.standard_normal((size, size)))[0]


def gaps(factors):
    """W_{j+1}ᵀ W_{j+1} − W_j W_jᵀ for every pair of neighbours."""
    return [upper.T @ upper - lower @ lower.T for lower, upper in pairwise(factors)]


# --- conservation ---------------------------------------------------------------------------------


@few
@given(kinds, seeds, depths)
def test_one_step_changes_balancedness_at_second_order_only(device, kind, seed, depth):
    x = Instance.random(kind, seed, depth)
    loop, state = x.start(device)
    after = loop.advance(state, 1)
    size = max(np.linalg.norm(w) for w in x.factors) ** 2
    for new, old, of_gradients in zip(
        gaps(after.factors), gaps(state.factors), gaps(state.gradients), strict=True
    ):
        # Δ(W_{j+1}ᵀW_{j+1} − W_jW_jᵀ) = lr² (g_{j+1}ᵀg_{j+1} − g_jg_jᵀ)
        assert np.linalg.norm(new - old - x.lr**2 * of_gradients) < 1e-13 * size
        assert np.linalg.norm(new - old) > 1e-8 * size, "nothing to compare"


@few
@given(kinds, seeds, depths)
def test_balancedness_drifts_in_proportion_to_the_learning_rate(device, kind, seed, depth):
    x = Instance.random(kind, seed, depth)
    balanced = dmf.Balanced(product_scale=0.8).draw(x.factorization, SHAPE, np.random.default_rng(seed))
    drifts = []
    for halvings in (0, 1):
        y = replace(x, factors=balanced, lr=0.05 * x.lr / 2**halvings)
        drifts.append(dmf.metrics.balancedness(y.end(device, STEPS * 4 * 2**halvings).factors))
    assert 1.9 < drifts[0] / drifts[1] < 2.1


# --- symmetries -----------------------------------------------------------------------------------


@few
@given(seeds, depths)
def test_orthogonal_equivariance(device, seed, depth):
    # A_i → P A_i Qᵀ and W(0) → P W(0) Qᵀ turn the whole trajectory.
    x = Instance.random("dense", seed, depth)
    rng = np.random.default_rng(seed)
    p, q = (random_orthogonal(rng, size) for size in SHAPE)
    first, *middle, last = x.factors
    turned = replace(x, matrices=p @ x.matrices @ q.T, factors=[first @ q.T, *middle, p @ last])
    assert close(turned.end(device).product, p @ x.end(device).product @ q.T)


@few
@given(kinds, seeds, depths)
def test_gauge_invariance(device, kind, seed, depth):
    # W_{j+1} Rᵀ and R W_j have the same product, and keep having it.
    x = Instance.random(kind, seed, depth)
    r = random_orthogonal(np.random.default_rng(seed), WIDTHS[0])
    first, second, *rest = x.factors
    turned = replace(x, factors=[r @ first, second @ r.T, *rest])
    assert close(turned.end(device).product, x.end(device).product)


@few
@given(kinds, seeds, depths)
def test_transposition(device, kind, seed, depth):
    x = Instance.random(kind, seed, depth)
    turned = replace(
        x,
        shape=SHAPE[::-1],
        rows=x.cols,
        cols=x.rows,
        matrices=None if x.matrices is None else x.matrices.transpose(0, 2, 1).copy(),
        factors=[w.T for w in x.factors[::-1]],
    )
    assert close(turned.end(device).product.T, x.end(device).product)


@few
@given(seeds, depths)
def test_permutation_of_rows_and_columns(device, seed, depth):
    x = Instance.random("completion", seed, depth)
    rng = np.random.default_rng(seed)
    i, j = (rng.permutation(size) for size in SHAPE)
    to_row, to_col = np.argsort(i), np.argsort(j)
    first, *middle, last = x.factors
    moved = replace(x, rows=to_row[x.rows], cols=to_col[x.cols], factors=[first[:, j], *middle, last[i]])
    assert close(moved.end(device).product, x.end(device).product[np.ix_(i, j)])


@few
@given(kinds, seeds, depths, st.sampled_from([2.0, 3.0]))
def test_homogeneity(device, kind, seed, depth, kappa):
    # Factors κ F, values κ^N y and learning rate κ^(2−2N) lr follow the same path, κ times as large.
    x = Instance.random(kind, seed, depth)
    scaled = replace(
        x,
        values=kappa**depth * x.values,
        factors=[kappa * w for w in x.factors],
        lr=kappa ** (2 - 2 * depth) * x.lr,
    )
    for a, b in zip(scaled.end(device).factors, x.end(device).factors, strict=True):
        # Powers of two only move exponents: not a bit of the mantissas may differ.
        assert np.array_equal(a, kappa * b) if kappa == 2 else close(a, kappa * b)


# --- the geometry of descent ----------------------------------------------------------------------


@few
@given(kinds, seeds, depths)
def test_euler_identity(kind, seed, depth):
    # ℓ(W_N … W_1) is linear in every factor's scale: ⟨W_j, g_j⟩ = ⟨W, ∇ℓ(W)⟩ for all j.
    x = Instance.random(kind, seed, depth)
    w = x.factorization.compose(x.factors)
    whole = np.vdot(w, x.problem.gradient(w))
    size = np.linalg.norm(w) * np.linalg.norm(x.problem.gradient(w))
    for factor, gradient in zip(x.factors, dmf.loss_and_gradients(x.problem, x.factors)[1], strict=True):
        assert abs(np.vdot(factor, gradient) - whole) < 1e-12 * size


@few
@given(kinds, seeds, depths)
def test_the_loss_falls_by_lr_times_squared_gradient(device, kind, seed, depth):
    # ΔL / (lr ‖g‖²) = −1 + O(lr): the defect shrinks tenfold with lr.
    x = Instance.random(kind, seed, depth)
    defects = []
    for lr in (1e-3 * x.lr, 1e-4 * x.lr):
        loop, state = replace(x, lr=lr).start(device)
        squared = sum(np.vdot(g, g) for g in state.gradients)
        defects.append((loop.advance(state, 1).loss - state.loss) / (lr * squared) + 1)
    assert defects[0] / defects[1] == pytest.approx(10, rel=0.02)


@few
@given(kinds, seeds)
def test_depth_one_ends_at_the_nearest_fit(device, kind, seed):
    # Gradients lie in the range of A*, so descent ends at W(0) + A⁺(y − A W(0)).
    x = Instance.random(kind, seed, 1)
    problem = x.problem
    rows = np.array([problem.adjoint(e).ravel() for e in np.eye(x.values.size)])
    lr = 1.0 / (problem.loss_scale * np.linalg.norm(rows, 2) ** 2)
    (start,) = x.factors
    misfit = x.values - rows @ start.ravel()
    nearest = start + (np.linalg.pinv(rows) @ misfit).reshape(SHAPE)
    assert close(replace(x, lr=lr).end(device, 2000).product, nearest, 1e-10)


@few
@given(seeds, st.sampled_from(["completion", "dense"]))
def test_tied_factors_stay_tied_and_are_symmetric_at_half_the_rate(device, seed, kind):
    rng = np.random.default_rng(seed)
    if kind == "completion":
        problem = dmf.Completion.random((8, 8), 2, 64, seed=seed, norm=3.0, symmetric=True)
    else:
        problem = dmf.Sensing.gaussian((8, 8), 2, 30, symmetric=True, seed=seed, norm=3.0)
    u = rng.standard_normal((8, 9)) * 0.8**0.5 / 3
    loop = dmf.Loop(problem, dmf.Product(2, (9,)), dmf.GradientDescent(lr=1.0), device=device)
    tied = loop.advance(loop.init(dmf.Factors([u.T, u])), STEPS)
    loop = dmf.Loop(problem, dmf.Symmetric(9), dmf.GradientDescent(lr=0.5), device=device)
    symmetric = loop.advance(loop.init(dmf.Factors([u])), STEPS)

    assert tied.loss < 0.1 * loop.init(dmf.Factors([u])).loss
    assert close(tied.factors[0].T, tied.factors[1], 1e-12)
    assert close(tied.factors[1], symmetric.factors[0], 1e-12)
    assert np.array_equal(symmetric.product, symmetric.product.T)
    eigenvalues = np.linalg.eigvalsh(symmetric.product)
    assert eigenvalues[0] > -1e-12 * eigenvalues[-1]


@few
@given(kinds, seeds, depths, st.sampled_from([None, 0.7]))
def test_exact_line_search_is_exact(device, kind, seed, depth, share_of_first):
    x = Instance.random(kind, seed, depth)
    objective = naive.objective_of(x.problem)
    loop, state = x.start(device, dmf.ExactLineSearch())
    max_step = np.inf
    if share_of_first is not None:
        max_step = share_of_first * loop.advance(state, 1).time
        loop, state = x.start(device, dmf.ExactLineSearch(max_step=max_step))
    for _ in range(20):
        after = loop.advance(state, 1)
        step = after.time - state.time
        along = np.polynomial.Polynomial(objective.loss_along(state.factors, state.gradients))
        assert after.loss <= state.loss
        assert after.loss == pytest.approx(along(step), rel=1e-10)
        assert 0 < step <= max_step * (1 + 1e-10)
        if step < max_step * (1 - 1e-10):
            assert abs(along.deriv()(step)) < 1e-10 * abs(along.deriv()(0.0))
        # No other step is better, so the minimum is global.
        others = np.linspace(0.0, min(4 * step, max_step), 200)
        assert along(step) <= np.min(along(others)) * (1 + 1e-10)
        state = after


@pytest.mark.parametrize(("depth", "scale", "seed"), [(2, 1.0, 69), (3, 0.3, 27), (4, 0.3, 11)])
def test_line_search_takes_the_lowest_of_several_minima(device, depth, scale, seed):
    problem = dmf.Completion.random((4, 4), 2, 8, seed=seed, norm=3.0)
    factors = dmf.Gaussian(product_scale=scale).draw(dmf.Product(depth), (4, 4), np.random.default_rng(seed))
    objective = naive.objective_of(problem)
    along = np.polynomial.Polynomial(objective.loss_along(factors, objective.gradients(factors)))
    roots = along.deriv().roots()
    minima = [x for x in np.sort(roots[np.isreal(roots)].real) if x > 0 and along.deriv(2)(x) > 0]
    lowest = min(minima, key=along)
    assert along(lowest) < 0.8 * along(minima[0]), "the first minimum is the lowest: nothing to find"
    # Within a cap before the lowest one, the first minimum or the cap itself is best.
    for max_step in (None, 0.5 * (minima[0] + lowest)):
        loop = dmf.Loop(problem, dmf.Product(depth), dmf.ExactLineSearch(max_step), device=device)
        step = loop.advance(loop.init(dmf.Factors(factors)), 1).time
        best = lowest if max_step is None else min(minima[0], max_step, key=along)
        assert step == pytest.approx(best, rel=1e-10)


@pytest.mark.parametrize(("dtype", "floor"), [("float64", 1e-18), ("float32", 1e-12)])
@pytest.mark.parametrize("depth", [2, 4, 6, 8, 12])
def test_line_search_converges_at_every_depth(device, depth, dtype, floor):
    # Near a fit, and early on at large depth, the coefficients of ηᵈ span hundreds of orders of magnitude.
    problem = dmf.Completion.random((10, 10), 1, 25, seed=1, norm=3.0)
    loop = dmf.Loop(problem, dmf.Product(depth), dmf.ExactLineSearch(), dtype=dtype, device=device)
    state = loop.init(dmf.Identity(product_scale=0.5))
    losses = [state.loss]
    for _ in range(300):
        state = loop.advance(state, 1)
        losses.append(state.loss)
    assert losses[-1] < floor * losses[0]
    assert np.max(np.diff(losses)) < floor * losses[0], "the loss rose"


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("depth", [3, 5, 6])
def test_line_search_stays_near_where_farther_out_is_a_fit_of_huge_terms_that_cancel(device, depth, dtype):
    """A single entry is fit exactly at several steps; what is far out is a fit only until rounding."""
    few = [([0], [0], [1.0]), ([0], [0], [0.0]), ([0, 1], [0, 2], [1.0, 0.0])]
    for entries in few:
        problem = dmf.Completion(*entries, (4, 4))
        loop = dmf.Loop(problem, dmf.Product(depth), dmf.ExactLineSearch(), dtype=dtype, device=device)
        for seed in range(6):
            state = loop.init(dmf.Gaussian(product_scale=1.0), seed=seed)
            losses = [state.loss]
            for _ in range(40):
                state = loop.advance(state, 1)
                losses.append(state.loss)
            assert np.max(np.diff(losses)) < 30 * np.finfo(dtype).eps * losses[0], "the loss rose"
            assert losses[-1] < 1e-4 * losses[0]


@pytest.mark.parametrize(("depth", "std"), [(4, 1e-4), (5, 1e-3), (6, 1e-4)])
def test_line_search_in_single_precision_where_powers_of_the_gradient_underflow(device, depth, std):
    problem, ends = dmf.Completion.random((10, 10), 2, 60), []
    for dtype in ("float32", "float64"):
        loop = dmf.Loop(problem, dmf.Product(depth), dmf.ExactLineSearch(), dtype=dtype, device=device)
        ends.append(loop.advance(loop.init(dmf.Gaussian(std=std), seed=0), 20))
    single, double = ends
    assert double.loss < 0.9 * np.mean(problem.values**2)
    assert single.loss == pytest.approx(double.loss, rel=1e-3)
    assert single.time == pytest.approx(double.time, rel=1e-3)


@pytest.mark.parametrize("product_scale", [1e-17, 1e-20])
def test_line_search_leaves_a_saddle_that_the_loss_cannot_tell_from_its_surroundings(product_scale):
    problem = dmf.Completion.random((20, 20), rank=2, observed=150)
    init = dmf.Gaussian(product_scale=product_scale)
    stop = dmf.MaxSteps(3000)
    result = dmf.run(problem, depth=2, optimizer=dmf.ExactLineSearch(), init=init, stop=stop, seed=0)
    assert result.loss < 1e-4 * result.trace.loss[0]
