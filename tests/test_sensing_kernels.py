"""Dense sensing: rows of every length, packed triangles, threads, and trajectories in lockstep."""

import threading
import tracemalloc

import numba
import numpy as np
import pytest
import scipy.sparse

import fastdmf as dmf
from fastdmf.backends import Event, Leg, bind, bind_objective
from fastdmf.kernels.cpu.dense_rows import MEMBERS, ROWS
from tests import naive

TOLERANCE = {"float64": 1e-13, "float32": 2e-5}
#: (m, n, p): single rows, groups with a rest, several blocks; n p around vectors and tiles.
SIZES = [(1, 1, 1), (1, 3, 2), (ROWS - 1, 4, 4), (ROWS, 5, 3), (ROWS + 1, 8, 8), (40, 16, 16), (97, 23, 23)]
SIZES += [(201, 17, 31), (300, 33, 33)]

needs_two_threads = pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="Numba has one thread here")


def sensing(m, n, p, symmetric=False, seed=0):
    """Numbers that are exact in float32, so that both precisions solve the same problem."""
    rng = np.random.default_rng(seed)
    matrices = rng.standard_normal((m, n, p)).astype(np.float32).astype(np.float64) / 8
    if symmetric:
        matrices = np.float32(matrices + matrices.transpose(0, 2, 1)).astype(np.float64)
    truth = rng.standard_normal((n, 1)) @ rng.standard_normal((1, p))
    return dmf.Sensing(matrices, np.float32(np.einsum("mij,ij->m", matrices, truth)))


def starts(factorization, shape, count, scale=0.3, seed=1):
    rng = np.random.default_rng(seed)
    shapes = factorization.factor_shapes(shape)
    return [[scale * rng.standard_normal(s) for s in shapes] for _ in range(count)]


def form(problem, factorization, **choices):
    return bind_objective(problem, factorization, **choices).form


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("tied", [False, True], ids=["product", "UUᵀ"])
@pytest.mark.parametrize("symmetric", [False, True], ids=["any", "symmetric"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_loss_and_gradients(size, symmetric, tied, dtype):
    m, n, p = size
    if n != p and (symmetric or tied):
        n = p = min(n, p)
    problem = sensing(m, n, p, symmetric)
    factorization = dmf.Symmetric(3) if tied else dmf.Product(2, (3,))
    (factors,) = starts(factorization, (n, p), 1)
    factors = [w.astype(dtype) for w in factors]
    objective = naive.objective_of(problem, tied)
    loss, gradients = dmf.loss_and_gradients(problem, factors, symmetric=tied)
    wide = [w.astype(np.float64) for w in factors]
    assert loss == pytest.approx(objective.loss(wide), rel=TOLERANCE[dtype])
    for gradient, wanted in zip(gradients, objective.gradients(wide), strict=True):
        assert np.linalg.norm(gradient - wanted) <= TOLERANCE[dtype] * np.linalg.norm(wanted)


def test_triangles_where_only_they_count():
    symmetric, other = sensing(9, 6, 6, symmetric=True), sensing(9, 6, 6)
    packed, full = "dense measurements, triangles", "dense measurements"
    assert form(symmetric, dmf.Product(2)) == form(symmetric, dmf.Symmetric()) == packed
    assert form(other, dmf.Symmetric()) == packed
    assert form(other, dmf.Product(2)) == form(sensing(9, 6, 5), dmf.Product(3)) == full
    # Symmetric but for one rounding is not symmetric.
    nearly = np.array(symmetric.matrices)
    nearly[-1, 2, 4] = np.nextafter(nearly[-1, 2, 4], 1)
    assert form(dmf.Sensing(nearly, symmetric.values), dmf.Product(2)) == full
    sparse = scipy.sparse.csr_array(symmetric.matrices.reshape(9, -1))
    assert form(dmf.Sensing(sparse, symmetric.values, shape=(6, 6)), dmf.Symmetric()) == "sparse measurements"
    assert form(dmf.Completion.random((6, 6), 1, observed=9), dmf.Product(2)) == "observed entries"


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_triangles_take_half_the_memory(dtype, tied):
    m, n = 200, 60
    problem = sensing(m, n, n, symmetric=not tied)
    triangles = m * n * (n + 1) // 2 * np.dtype(dtype).itemsize
    tracemalloc.start()
    objective = bind_objective(problem, dmf.Symmetric() if tied else dmf.Product(2), dtype)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert triangles <= objective.operator.a.nbytes <= 1.02 * triangles
    assert kept < 1.02 * triangles + 100_000
    assert peak < 1.02 * triangles + 3 * 8 * m * n + 1_500_000  # a row of all matrices, and a few to compare


@pytest.mark.parametrize("symmetric", [False, True])
def test_numbers_too_large_for_float32(symmetric):
    matrices = np.ones((3, 4, 4))
    matrices[1, 2, 2 if symmetric else 1] = -1e39
    problem = dmf.Sensing(matrices, np.ones(3))
    with pytest.raises(ValueError, match=r"1e\+39 of the problem's numbers is not finite in float32"):
        bind_objective(problem, dmf.Product(2), "float32")


def test_full_rows_are_the_problems_own():
    problem = sensing(20, 6, 5)
    assert np.shares_memory(bind_objective(problem, dmf.Product(2)).operator.a, problem.matrices)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_divergence_is_noticed(dtype, symmetric):
    problem = sensing(30, 8, 8, symmetric)
    result = dmf.run(problem, lr=1e3, stop=dmf.MaxSteps(500), seed=0, dtype=dtype)
    assert str(result.status) == "diverged"
    assert np.isfinite(result.product).all() and np.isfinite(result.loss)


def path(engine, factors, steps, company=()):
    """The trajectory after some steps, in the company of others."""
    members = [engine.start(f) for f in (factors, *company)]
    if company:
        members_together(engine, members).advance([Leg(steps)] * len(members))
    else:
        members[0].advance(steps)
    assert members[0].step == steps
    return members[0]


def members_together(engine, members):
    lockstep = engine.together(members)
    assert lockstep is not None
    return lockstep


def assert_same(a, b):
    assert all(map(np.array_equal, a.factors(), b.factors()))
    assert (a.loss, a.step, a.time, a.evaluations) == (b.loss, b.step, b.time, b.evaluations)
    assert a.memory().keys() == b.memory().keys()
    assert all(np.array_equal(a.memory()[name], b.memory()[name]) for name in a.memory())


@needs_two_threads
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("company", [0, 2])
def test_the_number_of_threads_does_not_change_a_bit(company, symmetric):
    problem = sensing(300, 15, 15, symmetric)  # several blocks
    own, *others = starts(dmf.Product(1), problem.shape, 1 + company)
    ends = []
    for threads in (1, 2):
        engine = bind(problem, dmf.Product(1), dmf.GradientDescent(0.05), threads=threads)
        ends.append(path(engine, own, 50, others))
    assert_same(*ends)
    assert ends[0].loss < 0.9 * engine.start(own).loss


CHOICES = {
    "descent": (dmf.GradientDescent(0.1), "float64"),
    "momentum": (dmf.GradientDescent(0.01, momentum=0.9), "float64"),
    "group RMSprop": (dmf.GroupRMSprop(0.02), "float64"),
    "float32": (dmf.GradientDescent(0.1), "float32"),
}
FACTORIZATIONS = [dmf.Product(1), dmf.Product(2, (5,)), dmf.Product(4), dmf.Symmetric(3), dmf.Symmetric()]


@pytest.mark.parametrize("factorization", FACTORIZATIONS, ids=str)
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("symmetric", [False, True], ids=["any", "symmetric"])
def test_lockstep_takes_each_members_own_path(symmetric, choice, factorization):
    optimizer, dtype = CHOICES[choice]
    problem = sensing(130, 11, 11, symmetric)
    engine = bind(problem, factorization, optimizer, dtype)
    points = starts(factorization, problem.shape, 2 * MEMBERS + 3)
    alone = [path(engine, p, 50) for p in points]
    assert all(t.loss < 0.95 * engine.start(p).loss for t, p in zip(alone, points, strict=True))
    for count in (2, 3, MEMBERS, MEMBERS + 1, len(points)):
        members = [engine.start(p) for p in points[:count]]
        lockstep = members_together(engine, members)
        for steps in (1, 29, 0, 20):
            assert lockstep.advance([Leg(steps)] * count) == [Event.ALL_STEPS] * count
        for a, b in zip(alone, members, strict=False):
            assert_same(a, b)


def test_lockstep_against_plain_numpy():
    problem = sensing(130, 11, 11)
    points = starts(dmf.Product(3), problem.shape, 5)
    for dtype, tolerance in {"float64": 1e-12, "float32": 1e-4}.items():
        engine = bind(problem, dmf.Product(3), dmf.GradientDescent(0.01), dtype)
        members = [engine.start(p) for p in points]
        members_together(engine, members).advance([Leg(50)] * 5)
        for member, point in zip(members, points, strict=True):
            objective = naive.objective_of(problem)
            start = [w.astype(dtype).astype(np.float64) for w in point]
            wanted = naive.trajectory(objective, start, naive.GradientDescent(0.01), 50).factors
            for w, expected in zip(member.factors(), wanted, strict=True):
                assert np.linalg.norm(w - expected) < tolerance * np.linalg.norm(expected)


def test_members_leave_and_go_on():
    problem = sensing(130, 11, 11)
    engine = bind(problem, dmf.Product(2), dmf.GradientDescent(0.002, momentum=0.9))
    points = starts(dmf.Product(2), problem.shape, 3)
    a, b, c = members = [engine.start(p) for p in points]
    members_together(engine, members).advance([Leg(11)] * 3)
    b.advance(9)
    members_together(engine, [c, a]).advance([Leg(9)] * 2)
    for member, point in zip(members, points, strict=True):
        assert_same(member, path(engine, point, 20))


@pytest.mark.parametrize("thresholds", ["loss", "gradient", "both"])
def test_all_stop_where_one_halts(thresholds):
    problem = sensing(130, 11, 11)
    engine = bind(problem, dmf.Product(2), dmf.GradientDescent(0.02))
    points = starts(dmf.Product(2), problem.shape, 3)
    norms = [(0.0, np.inf)]  # a pair that is never met, but the norm is there when it is asked for
    watched = engine.start(points[1])
    watched.advance(17, [(0.0, 0.0)])
    pair = (
        watched.loss if thresholds != "gradient" else np.inf,
        watched.gradient_norm if thresholds != "loss" else np.inf,
    )
    members = [engine.start(p) for p in points]
    events = members_together(engine, members).advance(
        [Leg(1000), Leg(1000, [(0.0, 1.0), pair]), Leg(2000, norms)]
    )
    assert events == [Event.ALL_STEPS, Event.HALTED, Event.ALL_STEPS]
    assert [t.step for t in members] == [17] * 3
    for member, point in zip(members, points, strict=True):
        assert all(map(np.array_equal, member.factors(), path(engine, point, 17).factors()))


@pytest.mark.parametrize("symmetric", [False, True])
def test_one_diverges_and_the_others_keep_their_step(symmetric):
    problem = sensing(130, 11, 11, symmetric)
    engine = bind(problem, dmf.Product(2), dmf.GradientDescent(0.01, momentum=0.5))
    points = starts(dmf.Product(2), problem.shape, 3)
    points[1] = [300 * w for w in points[1]]
    alone = engine.start(points[1])
    assert alone.advance(1000) == Event.DIVERGED
    members = [engine.start(p) for p in points]
    lockstep = members_together(engine, members)
    assert lockstep.advance([Leg(1000)] * 3) == [Event.ALL_STEPS, Event.DIVERGED, Event.ALL_STEPS]
    assert_same(members[1], alone)
    assert members[1].diverged and np.isfinite(members[1].loss)
    last = alone.step + 1
    assert [t.step for t in members] == [last, last - 1, last]
    members_together(engine, members[::2]).advance([Leg(5)] * 2)
    for member, point in ((members[0], points[0]), (members[2], points[2])):
        assert_same(member, path(engine, point, last + 5))
    with pytest.raises(ValueError, match="last finite one"):
        lockstep.advance([Leg(1)] * 3)


def test_a_flag_of_one_cancels_all():
    problem = sensing(130, 11, 11)
    engine = bind(problem, dmf.Product(2), dmf.GradientDescent(0.02))
    points = starts(dmf.Product(2), problem.shape, 3)
    members = [engine.start(p) for p in points]
    lockstep = members_together(engine, members)
    lockstep.advance([Leg(0)] * 3)  # compiled before the clock runs
    members[2].cancel[0] = 1
    assert lockstep.advance([Leg(10)] * 3) == [Event.CANCELLED] * 3
    assert [t.step for t in members] == [0] * 3
    members[2].cancel[0] = 0
    timer = threading.Timer(0.1, members[0].cancel.fill, (1,))
    timer.start()
    assert lockstep.advance([Leg(10**9)] * 3) == [Event.CANCELLED] * 3
    timer.join()
    steps = members[0].step
    assert steps > 0 and [t.step for t in members] == [steps] * 3
    members[0].cancel[0] = 0
    lockstep.advance([Leg(3)] * 3)
    for member, point in zip(members, points, strict=True):
        same = path(engine, point, steps + 3)
        assert all(map(np.array_equal, member.factors(), same.factors()))


def test_where_lockstep_does_not_pay():
    dense = sensing(9, 4, 4)
    sparse = dmf.Sensing(scipy.sparse.csr_array(dense.matrices.reshape(9, -1)), dense.values, shape=(4, 4))
    completion = dmf.Completion.random((4, 4), 1, observed=9)
    descent, points = dmf.GradientDescent(0.1), starts(dmf.Product(2), (4, 4), 2)
    for problem, optimizer in ((sparse, descent), (completion, descent), (dense, dmf.ExactLineSearch())):
        engine = bind(problem, dmf.Product(2), optimizer)
        assert engine.together([engine.start(p) for p in points]) is None
    engine = bind(dense, dmf.Product(2), descent)
    assert engine.together([engine.start(points[0])]) is None
