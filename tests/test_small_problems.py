"""Very many tiny problems: where their flows end, what the minimum trace is, and the list of them."""

import itertools
from typing import Any

import numpy as np
import pytest

import fastdmf as dmf
from fastdmf.backends.cpu_small import follow_all
from fastdmf.reference import min_nuclear_norm, min_trace_small

UNIT = np.eye(4).reshape(4, 2, 2)
OFF = UNIT[1] + UNIT[2]


@pytest.fixture(scope="module")
def sample():
    """Problems with three measurements, some of which have no positive definite solution."""
    return dmf.datasets.small_sensing(3, limit=400, seed=1)


@pytest.fixture(scope="module")
def minima(sample):
    return min_trace_small(sample.matrices, sample.values)


def measured(matrices, x):
    return np.einsum("bmij,bij->bm", matrices, x)


def trace(x):
    return np.trace(x, axis1=-2, axis2=-1)


# --- the flow ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("init_norm", [1e-4, 1.0])
def test_flows_end_where_an_explicit_method_of_order_five_ends(sample, minima, init_norm):
    matrices, values = sample.matrices[:40], sample.values[:40]
    runs = dmf.run_small(matrices, values, init_norm, seed=3, rtol=1e-7)
    assert np.all(runs.status == "converged")
    soon = np.flatnonzero(minima.interior[:40] & (runs.time < 30))[:8]  # later explicit methods crawl
    assert len(soon) == 8
    for b in soon:
        result = dmf.run(
            dmf.Sensing(matrices[b], values[b], loss="half_sum"), factorization=dmf.Symmetric(),
            init=dmf.Factors([runs.start[b]]), optimizer=dmf.GradientFlow(rtol=1e-10, method="dopri5"),
            stop=dmf.LossBelow(0.5e-16 * float(values[b] @ values[b])) | dmf.MaxSteps(50_000),
        )  # fmt: skip
        assert str(result.status) == "converged"
        np.testing.assert_allclose(runs.product[b], result.product, atol=1e-6 * np.abs(result.product).max())


def test_errors_follow_the_tolerance_with_order_four(sample, minima):
    chosen = np.flatnonzero(minima.interior)[:100]
    matrices, values = sample.matrices[chosen], sample.values[chosen]

    def ends(rtol):
        return dmf.run_small(matrices, values, 0.5, seed=0, rtol=rtol, tol=1e-9)

    reference = ends(1e-9)
    errors, steps = [], []
    for rtol in (1e-4, 1e-6):
        runs = ends(rtol)
        errors.append(np.median(np.linalg.norm(runs.product - reference.product, axis=(1, 2))))
        steps.append(np.median(runs.steps))
    assert errors[1] < 1e-6 and errors[1] < errors[0] / 20
    assert steps[1] / steps[0] == pytest.approx(100 ** (1 / 4), rel=0.35)


@pytest.mark.parametrize("init_norm", [1e-5, 1e-3, 1.0])
def test_every_flow_converges_and_none_ends_below_the_minimum(sample, minima, init_norm):
    runs = dmf.run_small(sample.matrices, sample.values, init_norm, seed=2, tol=1e-9, max_steps=20_000)
    assert np.all(runs.status == "converged")
    missed = np.linalg.norm(measured(sample.matrices, runs.product) - sample.values, axis=1)
    np.testing.assert_allclose(0.5 * missed**2, runs.loss, rtol=1e-3, atol=1e-30)
    assert np.all(missed <= 1.01e-9 * np.linalg.norm(sample.values, axis=1))
    np.testing.assert_array_equal(runs.product, runs.factor @ runs.factor.transpose(0, 2, 1))
    excess = trace(runs.product) / minima.lower - 1.0
    assert excess[minima.interior].min() > -1e-6
    assert excess.min() > -2e-2  # with X fitting to 1e-9 only, on faces that are touched twice over
    if init_norm == 1.0:
        assert np.median(excess) > 0.05
    assert np.all(runs.evaluations >= 6 * runs.steps) and np.all(runs.time > 0)


def test_saddles_are_left_as_the_flow_leaves_them():
    """X₁₁ fits 500 times more slowly than X₀₀: on that long plateau it must not be damped."""
    matrices, values = np.array([[UNIT[0], 0.02 * UNIT[3]]]), np.array([[1.0, 0.02 * 0.1]])
    runs = dmf.run_small(matrices, values, 1e-5, seed=0, tol=1e-6)
    assert runs.status[0] == "converged"
    np.testing.assert_allclose(np.diagonal(runs.product[0]), [1.0, 0.1], rtol=1e-3)
    # X₁₁ grows by dx/dt = 4 a x (y − a x), the logistic equation, whatever X₀₀ does.
    a, y, x0, x = 0.02, 0.002, runs.start[0, 1] @ runs.start[0, 1], runs.product[0, 1, 1]
    elapsed = np.log(x * (0.1 - x0) / (x0 * abs(0.1 - x))) / (4 * a * y)
    assert runs.time[0] == pytest.approx(elapsed, rel=1e-3)


def follow_one(matrices, values, start, max_steps=2000):
    u = np.array([start], dtype=float)
    matrices, values = np.array([matrices], dtype=float), np.array([values], dtype=float)
    loss, _, counts, status = follow_all(matrices, values, u, np.array([1e-20]), 1e-6, max_steps, 1)
    return str(status[0]), float(loss[0]), u[0], int(counts[0, 0])


def test_how_flows_end_that_do_not_fit():
    small = 1e-3 * np.eye(2)
    status, loss, u, _ = follow_one([UNIT[0], UNIT[3]], [1.0, 1.0], np.diag([1e-3, 0.0]))
    assert (status, round(loss, 6)) == ("stalled", 0.5) and u[1, 1] == 0.0  # exactly on the way to a saddle
    assert dmf.Status(status).advice
    status, loss, _, _ = follow_one([UNIT[0]], [-1.0], small)
    assert (status, round(loss, 6)) == ("stationary", 0.5)  # no X ⪰ 0 has X₀₀ = −1
    status, loss, _, _ = follow_one([UNIT[0], OFF, UNIT[3]], [1.0, 4.0, 1.0], [[0.3, 0.1], [0.2, 0.4]])
    assert status == "stationary" and loss > 0.1
    assert follow_one([0 * UNIT[0]], [1.0], small)[0] == "stationary"
    assert follow_one([UNIT[0]], [1.0], small, max_steps=5)[::3] == ("max_steps", 5)
    assert follow_one([UNIT[0]], [1.0], 1e200 * np.eye(2))[0] == "diverged"


def test_bits_depend_neither_on_threads_nor_on_company(sample):
    matrices, values = sample.matrices[:200], sample.values[:200]
    one = dmf.run_small(matrices, values, 1e-3, seed=4)
    for threads in (2, 3):
        other = dmf.run_small(matrices, values, 1e-3, seed=4, threads=threads)
        for name in vars(one):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    few = dmf.run_small(matrices[:7], values[:7], 1e-3, seed=4)
    np.testing.assert_array_equal(few.factor, one.factor[:7])
    larger = dmf.run_small(matrices[:7], values[:7], 1.0, seed=4)
    np.testing.assert_allclose(larger.start, 1e3 * few.start, rtol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(larger.start, axis=(1, 2)), 1.0, rtol=1e-14)


def test_measurements_act_through_their_symmetric_parts(sample):
    skew = np.triu(np.ones((3, 3)), 1)
    skew = skew - skew.T
    plain = dmf.run_small(sample.matrices[:3], sample.values[:3], seed=0)
    skewed = dmf.run_small(sample.matrices[:3] + skew, sample.values[:3], seed=0)
    np.testing.assert_array_equal(plain.product, skewed.product)
    np.testing.assert_allclose(
        min_trace_small(sample.matrices[:3] + skew, sample.values[:3]).lower,
        min_trace_small(sample.matrices[:3], sample.values[:3]).lower,
        rtol=1e-12,
    )


# --- the minimum trace ------------------------------------------------------------------------------------


def test_certificates_hold_when_recomputed(sample, minima):
    planted = trace(sample.planted)
    assert np.all(minima.status == "converged")
    assert 0.02 < np.mean(~minima.interior) < 0.2
    assert np.all(minima.lower <= planted * (1 + 1e-12))
    for b in range(len(planted)):
        a, y = sample.matrices[b], sample.values[b]
        combination = sum(weight * matrix for weight, matrix in zip(minima.dual[b], a, strict=True))
        if trace(minima.face[b]) < 2.5:
            combination = minima.face[b] @ combination @ minima.face[b]
        rounding = 1e-15 * np.abs(minima.dual[b]).sum()
        assert np.linalg.eigvalsh(combination)[-1] <= 1.0 + 10 * rounding
        assert minima.lower[b] <= y @ minima.dual[b] + 10 * rounding
        x = minima.matrix[b]
        assert np.linalg.eigvalsh(x)[0] >= -1e-14 * np.trace(x)
        assert max(abs(np.sum(m * x) - v) for m, v in zip(a, y, strict=True)) <= 1e-11
        assert np.trace(x) == pytest.approx(minima.lower[b], rel=2e-6)
        assert minima.lower[b] <= minima.upper[b] <= planted[b] * (1 + 2e-6)


def test_against_the_solver_for_large_problems(sample, minima):
    chosen = np.flatnonzero(minima.interior)[:6]
    for b in chosen:
        best = min_nuclear_norm(dmf.Sensing(sample.matrices[b], sample.values[b]), psd=True)
        assert minima.lower[b] <= best.upper * (1 + 1e-8)
        assert best.lower <= minima.upper[b] * (1 + 1e-8)
        assert best.status == "converged"


def test_solutions_on_the_boundary_only():
    """X₀₀ = 0 puts X on the face of its last entries; there, X₁₁ + 2 X₀₁ = 1 leaves tr X = 1."""
    matrices = np.array([[UNIT[0], UNIT[3] + OFF], [UNIT[0], UNIT[3]], [UNIT[0], UNIT[3]]])
    best = min_trace_small(matrices, [[0.0, 1.0], [0.0, 2.0], [3.0, 2.0]])
    assert np.all(best.status == "converged") and best.interior.tolist() == [False, False, True]
    np.testing.assert_allclose(best.lower, [1.0, 2.0, 5.0], rtol=1e-6)
    np.testing.assert_allclose(best.matrix[0], UNIT[3], atol=1e-6)
    assert np.all(best.gap < 1e-6)


def test_a_face_within_a_face_has_to_be_found():
    """X₂₂ = 0, which leaves −X₁₁ = 0 of the second value, which leaves X₀₀ = 1 of the third."""
    corner, second = np.zeros((3, 3)), np.array([[0.0, 0, 1], [0, -1, 0], [1, 0, 1]])
    corner[2, 2] = 1.0
    third = np.array([[1.0, -1, -1], [-1, -1, 0], [-1, 0, 1]])
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    plain = np.array([corner, second, third])
    mixed = np.array([plain[0] - plain[1], plain[1] + plain[2], plain[2]])
    best = min_trace_small([plain, turn @ mixed @ turn.T], [[0.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    assert np.all(best.status == "converged") and not best.interior.any()
    np.testing.assert_allclose(best.lower, 1.0, rtol=1e-6)
    kept = np.diag([1.0, 1.0, 0.0])
    np.testing.assert_allclose(best.face, [kept, turn @ kept @ turn.T], atol=1e-12)
    np.testing.assert_allclose(best.matrix[0], np.diag([1.0, 0, 0]), atol=1e-5)


def test_what_has_no_solution_or_a_trivial_one():
    first = np.array([UNIT[0], UNIT[3]])
    matrices = np.array([first, [UNIT[0], 2 * UNIT[0]], 0 * first, first, [UNIT[0], OFF]])
    best = min_trace_small(matrices, [[-1.0, 1.0], [1.0, 3.0], [0.0, 1.0], [0.0, 0.0], [0.0, 2.0]])
    assert best.status.tolist() == ["infeasible", "infeasible", "infeasible", "converged", "stalled"]
    assert best.upper.tolist() == [np.inf, np.inf, np.inf, 0.0, np.inf]
    assert best.lower[:4].tolist() == [np.inf, np.inf, np.inf, 0.0] and 100 < best.lower[4] < np.inf
    assert best.gap.tolist() == [np.inf, np.inf, np.inf, 0.0, np.inf]
    values = np.array([[-1.0, 1.0], [1.0, 3.0], [0.0, 1.0]])
    for b in range(3):  # Farkas: Σ λ_i A_i ⪯ 0 up to 1e-5 yᵀλ
        product = values[b] @ best.dual[b]
        assert (
            product > 0
            and np.linalg.eigvalsh(np.tensordot(best.dual[b], matrices[b], 1))[-1] <= 1e-5 * product
        )


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_values_and_matrices_of_any_size(sample, minima, scale):
    part = slice(0, 40)
    matrices, values = sample.matrices[part], sample.values[part]
    best = min_trace_small(matrices / scale, values * scale)
    np.testing.assert_allclose(best.lower, scale**2 * minima.lower[part], rtol=1e-5)
    runs = dmf.run_small(matrices / scale, values * scale, scale, seed=0)
    plain = dmf.run_small(matrices, values, 1.0, seed=0)
    np.testing.assert_allclose(runs.product / scale**2, plain.product, atol=1e-3)


# --- the list ---------------------------------------------------------------------------------------------


def orbits(m, n):
    """How many there are, by brute force."""
    upper = np.triu_indices(n)
    matrices = []
    for entries in itertools.product((-1, 0, 1), repeat=len(upper[0])):
        a = np.zeros((n, n), int)
        a[upper] = entries
        matrices.append(a + np.triu(a, 1).T)
    group = [
        np.eye(n, dtype=int)[list(places)] * np.array(signs)
        for places in itertools.permutations(range(n))
        for signs in itertools.product((1, -1), repeat=n)
    ]

    def unsigned(a):
        return max(tuple(a.ravel()), tuple(-a.ravel()))

    found = set()
    vectors = [np.array(x) for x in itertools.product((-1, 0, 1), repeat=n) if any(x)]
    for chosen in itertools.combinations(matrices, m):
        if np.linalg.matrix_rank(np.reshape(chosen, (m, -1))) < m:
            continue
        for x in vectors:
            if any(x @ a @ x for a in chosen):
                found.add(
                    min(
                        (
                            tuple(sorted(unsigned(p @ a @ p.T) for a in chosen)),
                            unsigned(np.outer(p @ x, p @ x)),
                        )
                        for p in group
                    )
                )
    return len(found)


@pytest.mark.parametrize(("m", "n"), [(1, 1), (1, 2), (2, 2)])
def test_the_list_has_one_problem_of_each_orbit(m, n):
    problems = dmf.datasets.small_sensing(m, size=n)
    assert len(problems.values) == orbits(m, n)
    np.testing.assert_array_equal(measured(problems.matrices, problems.planted), problems.values)
    np.testing.assert_array_equal(problems.matrices, problems.matrices.transpose(0, 1, 3, 2))


def test_a_sample_of_the_list(sample):
    assert sample.matrices.shape == (400, 3, 3, 3)
    again = dmf.datasets.small_sensing(3, limit=400, seed=1)
    assert all(map(np.array_equal, sample, again))
    whole = dmf.datasets.small_sensing(2)
    some = dmf.datasets.small_sensing(2, limit=50, seed=0)
    assert len(whole.values) == 36_030 and len(some.values) == 50
    rows = {np.concatenate([a.ravel(), x.ravel()]).tobytes() for a, _, x in zip(*whole, strict=True)}
    assert len(rows) == 36_030
    assert all(
        np.concatenate([a.ravel(), x.ravel()]).tobytes() in rows for a, _, x in zip(*some, strict=True)
    )
    np.testing.assert_array_equal(measured(sample.matrices, sample.planted), sample.values)
    assert sample.values.any(axis=1).all()


# --- what is refused --------------------------------------------------------------------------------------

GOOD: Any = np.ones((2, 1, 3, 3)), np.ones((2, 1))


@pytest.mark.parametrize("solve", [dmf.run_small, min_trace_small])
@pytest.mark.parametrize(
    ("matrices", "values", "error", "message"),
    [
        (np.ones((1, 3, 3)), np.ones((2, 1)), ValueError, r"matrices.*\(1, 3, 3\)"),
        (np.ones((2, 1, 3, 4)), np.ones((2, 1)), ValueError, "square"),
        (np.ones((2, 1, 3, 3)), np.ones((1, 2)), ValueError, r"\(1, 2\)"),
        (np.ones((0, 1, 3, 3)), np.ones((0, 1)), ValueError, "empty"),
        (np.full((2, 1, 3, 3), np.nan), np.ones((2, 1)), ValueError, "nan"),
        (np.ones((2, 1, 3, 3), complex), np.ones((2, 1)), TypeError, "complex"),
    ],
)
def test_arrays_that_are_refused(solve, matrices, values, error, message):
    with pytest.raises(error, match=message):
        solve(matrices, values)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"init_norm": 0.0}, ValueError),
        ({"init_norm": "1"}, TypeError),
        ({"tol": -1e-8}, ValueError),
        ({"rtol": 1.0}, ValueError),
        ({"max_steps": 0}, ValueError),
        ({"threads": 0}, ValueError),
        ({"seed": -1}, ValueError),
    ],
)
def test_settings_that_are_refused(settings, error):
    with pytest.raises(error, match=next(iter(settings))):
        dmf.run_small(*GOOD, **settings)
    with pytest.raises(ValueError, match="tol"):
        min_trace_small(*GOOD, tol=0.0)
    with pytest.raises(ValueError, match="13 wide"):
        dmf.run_small(np.ones((1, 1, 13, 13)), [[1.0]])


@pytest.mark.parametrize("settings", [{"size": 4}, {"measurements": 7}, {"measurements": 3}, {"limit": 0}])
def test_lists_that_are_refused(settings):
    with pytest.raises(ValueError, match=str(next(iter(settings.values())))):
        dmf.datasets.small_sensing(**settings)
