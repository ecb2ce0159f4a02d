"""The engine against a plain NumPy transliteration of the papers, 200 steps long."""

import functools

import numba
import numpy as np
import pytest

import fastdmf as dmf
from fastdmf.backends import bind_objective
from tests import naive

STEPS = 200
TOLERANCE = {"float64": 1e-11, "float32": 2e-4}

#: Every kind of problem runs with another normalization, so that none is left out.
KINDS = {"completion": "mean", "crowded": "half_mean", "dense": "half_sum", "sparse": "half_mean"}
FACTORIZATIONS = {
    "depth 1": (dmf.Product(1), "rectangular"),
    "depth 2": (dmf.Product(2, (5,)), "rectangular"),
    "depth 3": (dmf.Product(3, (9, 5)), "rectangular"),
    "depth 4": (dmf.Product(4, (5, 9, 13)), "rectangular"),
    "depth 5": (dmf.Product(5, (6, 5, 9, 8)), "rectangular"),
    "depth 6": (dmf.Product(6, (5, 9, 6, 13, 7)), "rectangular"),
    "UUᵀ, narrow": (dmf.Symmetric(3), "symmetric"),
    "UUᵀ, full": (dmf.Symmetric(), "symmetric"),
    "UUᵀ, over-wide": (dmf.Symmetric(14), "symmetric"),
    "UUᵀ, narrow, asymmetric data": (dmf.Symmetric(3), "asymmetric"),
    "UUᵀ, full, asymmetric data": (dmf.Symmetric(), "asymmetric"),
    "UUᵀ, over-wide, asymmetric data": (dmf.Symmetric(14), "asymmetric"),
}
OPTIMIZERS = ["descent", "momentum", "group RMSprop", "line search", "capped line search"]


@pytest.fixture(scope="module")
def make_case(make_problem):
    """A function (kind, factorization, optimizer) → a `Case`, computed once for all precisions."""
    return functools.cache(functools.partial(Case, make_problem))


class Case:
    """A problem, a start, an optimizer, and the path that plain NumPy takes."""

    def __init__(self, make_problem, kind, factorization, optimizer):
        self.factorization, flavor = FACTORIZATIONS[factorization]
        self.problem = make_problem(kind, flavor, KINDS[kind])
        self.start = start_of(self.factorization, self.problem.shape)
        objective = naive.objective_of(self.problem, isinstance(self.factorization, dmf.Symmetric))
        name, settings = self.settings(objective, optimizer)
        self.optimizer = getattr(dmf, name)(**settings)
        self.path = naive.trajectory(objective, self.start, getattr(naive, name)(**settings), STEPS)

    def settings(self, objective, optimizer):
        # Beyond the edge of stability, roundoff grows exponentially and nothing could be compared.
        lr = 0.1 / (objective.weight * len(objective.chain(self.start)))
        match optimizer:
            case "descent":
                return "GradientDescent", {"lr": lr}
            case "momentum":
                return "GradientDescent", {"lr": 0.1 * lr, "momentum": 0.9}
            case "group RMSprop":
                return "GroupRMSprop", {"lr": 0.02}
            case "line search":
                return "ExactLineSearch", {}
            case _:
                free = naive.trajectory(objective, self.start, naive.ExactLineSearch(), STEPS // 10)
                lengths = [step for step in free.lengths if step > 0]  # 0 once the fit is exact
                return "ExactLineSearch", {"max_step": float(np.mean(lengths))}


def start_of(factorization, shape):
    """Gaussian factors, exact in float32, of a product with entries of order 1/n."""
    factors = dmf.Gaussian(product_scale=0.7).draw(factorization, shape, np.random.default_rng(7))
    return [w.astype(np.float32).astype(np.float64) for w in factors]


def deviation(factors, expected):
    """The largest relative error among the factors, in the Frobenius norm."""
    return max(np.linalg.norm(w - e) / np.linalg.norm(e) for w, e in zip(factors, expected, strict=True))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("factorization", FACTORIZATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_200_steps(make_case, kind, factorization, optimizer, dtype, device):
    case, tolerance = make_case(kind, factorization, optimizer), TOLERANCE[dtype]
    loop = dmf.Loop(case.problem, case.factorization, case.optimizer, dtype=dtype, device=device)
    state = loop.advance(loop.init(dmf.Factors(case.start)), STEPS)

    first, last = case.path.losses[0], case.path.losses[-1]
    assert last < 0.1 * first, "this instance hardly moves: it proves nothing"
    assert [w.dtype for w in state.factors] == [dtype] * len(case.start)
    assert deviation(state.factors, case.path.factors) < tolerance
    # Residuals near zero have an error relative to their start; the loss is their square.
    assert abs(state.loss - last) <= tolerance * np.sqrt(last * first) + tolerance**2 * first
    assert state.step == STEPS and not state.diverged
    if "line search" not in optimizer:  # near the fit, rounding decides the length of an exact step
        assert state.time == pytest.approx(sum(case.path.lengths), rel=tolerance)


def test_the_capped_line_search_is_capped_at_some_steps_only(make_case):
    case = make_case("dense", "UUᵀ, narrow", "capped line search")
    at_cap = np.count_nonzero(np.equal(case.path.lengths, case.optimizer.max_step))
    assert STEPS // 10 < at_cap < STEPS - STEPS // 10


@pytest.mark.parametrize("name", [name for name in FACTORIZATIONS if name != "depth 1"])
def test_completions_are_looked_at_in_both_ways(name, make_problem):
    """Else the kernels of one of them would not be compared."""
    factorization, flavor = FACTORIZATIONS[name]
    forms = [bind_objective(make_problem(kind, flavor), factorization).form for kind in KINDS]
    assert forms[:2] == ["observed entries", "whole matrix, masked"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_two_halves_are_the_whole_to_the_bit(make_case, kind, optimizer, device):
    case = make_case(kind, "depth 3", optimizer)
    loop = dmf.Loop(case.problem, case.factorization, case.optimizer, device=device)
    start = loop.init(dmf.Factors(case.start))
    half = loop.advance(start, STEPS // 2)
    kept = [w.copy() for w in half.factors]
    assert_same(loop.advance(half, STEPS // 2), loop.advance(start, STEPS))
    assert all(np.array_equal(w, k) for w, k in zip(half.factors, kept, strict=True)), "the argument changed"


@pytest.mark.parametrize("factorization", ["depth 1", "depth 2", "depth 3", "UUᵀ, full, asymmetric data"])
@pytest.mark.parametrize("kind", KINDS)
def test_watching_the_gradient_does_not_change_a_bit(make_case, kind, factorization, device):
    case = make_case(kind, factorization, "descent")
    choices = {"factorization": case.factorization, "optimizer": case.optimizer, "device": device}
    ends = [
        dmf.run(case.problem, init=dmf.Factors(case.start), stop=stop, **choices)
        for stop in (dmf.MaxSteps(20), dmf.MaxSteps(20) | dmf.GradientBelow(1e-300))
    ]
    assert_same(*ends)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_run_takes_the_path_of_the_loop_to_the_bit(make_case, optimizer, device):
    case = make_case("completion", "depth 2", optimizer)
    loop = dmf.Loop(case.problem, case.factorization, case.optimizer, device=device)
    result = dmf.run(
        case.problem,
        factorization=case.factorization,
        optimizer=case.optimizer,
        init=dmf.Gaussian(product_scale=0.7),
        stop=dmf.MaxSteps(STEPS),
        record=dmf.Record(every=7),
        seed=5,
        device=device,
    )
    assert_same(result, loop.advance(loop.init(dmf.Gaussian(product_scale=0.7), seed=5), STEPS))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("factorization", FACTORIZATIONS)
def test_the_order_of_observations_does_not_change_a_bit(make_case, factorization, dtype, device):
    case = make_case("completion", factorization, "descent")
    p = case.problem
    order = np.random.default_rng(0).permutation(p.values.size)
    shuffled = dmf.Completion(p.rows[order], p.cols[order], p.values[order], p.shape, loss=p.loss)
    ends = []
    for problem in (p, shuffled):
        loop = dmf.Loop(problem, case.factorization, case.optimizer, dtype=dtype, device=device)
        ends.append(loop.advance(loop.init(dmf.Factors(case.start)), STEPS))
    assert_same(*ends)


@pytest.mark.skipif(numba.get_num_threads() < 2, reason="needs two threads")
@pytest.mark.parametrize("factorization", [dmf.Product(2), dmf.Symmetric()])
def test_the_number_of_threads_does_not_change_a_bit(factorization):
    problem = dmf.Completion.random((300, 300), observed=20_000)  # several blocks of rows
    ends = []
    for threads in (1, 2):
        loop = dmf.Loop(problem, factorization, dmf.GradientDescent(lr=40.0), threads=threads)
        assert loop.engine.form == "observed entries", "nothing is cut into blocks"
        start = loop.init(dmf.Gaussian(product_scale=0.1), seed=0)
        ends.append(loop.advance(start, 50))
        assert ends[-1].loss < 0.9 * start.loss
    assert_same(*ends)


def assert_same(a, b):
    assert all(np.array_equal(x, y) for x, y in zip(a.factors, b.factors, strict=True))
    for number in ("loss", "time", "evaluations"):
        assert getattr(a, number) == getattr(b, number)
