"""Bad input is refused before anything runs, by an error that names the offending value."""

import os
import re

import numpy as np
import pytest
import scipy.sparse

import fastdmf as dmf

NAN = float("nan")
INF = float("inf")
SMALL = dmf.Completion.random(shape=(7, 5), rank=1, observed=20, seed=0)
EYES = np.stack([np.eye(3)] * 2)


@pytest.fixture(autouse=True)
def _no_step_is_taken(monkeypatch):
    def forbidden(*_args, **_kwargs):
        raise AssertionError("a step was taken although the input is bad")

    monkeypatch.setattr("fastdmf.loop.Pace.advance", forbidden)


def check(refused, kind, fragment):
    with pytest.raises((ValueError, TypeError)) as caught:
        refused()
    assert type(caught.value) is kind
    message = str(caught.value)
    assert re.search(rf"(?<!\w)(?<!\d\.){re.escape(str(fragment))}(?!\w)", message), message


def label(arguments):
    """A readable test id for a dictionary of arguments."""
    if isinstance(arguments, dict):
        return ", ".join(f"{name}={value!r}"[:40] for name, value in arguments.items())
    return None


def completion(rows=(0, 1), cols=(0, 1), values=(1.0, 2.0), shape=(7, 5), **more):
    return dmf.Completion(rows, cols, values, shape, **more)


@pytest.mark.parametrize(
    ("arguments", "kind", "fragment"),
    [
        ({"rows": [0, 7]}, ValueError, "rows[1] = 7"),
        ({"rows": [-1, 0]}, ValueError, "rows[0] = -1"),
        ({"cols": [0, 5]}, ValueError, "cols[1] = 5"),
        ({"rows": [0.0, 1.0]}, TypeError, "float64"),
        ({"rows": [True, False]}, TypeError, "bool"),
        ({"rows": [[0, 1]]}, ValueError, (1, 2)),
        ({"rows": [3, 3], "cols": [2, 2]}, ValueError, (3, 2)),
        ({"rows": [0, 1, 2]}, ValueError, "3, 2 and 2"),
        ({"values": [1.0, 2.0, 3.0]}, ValueError, "2, 2 and 3"),
        ({"values": [1.0, NAN]}, ValueError, "nan at (1,)"),
        ({"values": [-INF, 1.0]}, ValueError, "-inf at (0,)"),
        ({"values": [1.0, 2j]}, TypeError, "complex128"),
        ({"values": ["1", "2"]}, TypeError, "<U1"),
        ({"values": [[1.0, 2.0]]}, ValueError, (1, 2)),
        ({"rows": [], "cols": [], "values": []}, ValueError, "empty"),
        ({"shape": 5}, TypeError, 5),
        ({"shape": (7,)}, TypeError, (7,)),
        ({"shape": (0, 5)}, ValueError, 0),
        ({"shape": (7.5, 5)}, TypeError, 7.5),
        ({"shape": (True, 5)}, TypeError, True),
        ({"truth": np.zeros((5, 7))}, ValueError, (5, 7)),
        ({"truth": np.zeros(35)}, ValueError, (35,)),
        ({"truth": np.full((7, 5), NAN)}, ValueError, "nan at (0, 0)"),
        ({"test": ([0], [0])}, ValueError, 2),
        ({"test": ([9], [0], [1.0])}, ValueError, "test rows[0] = 9"),
        ({"test": ([0], [0], [INF])}, ValueError, "test values holds inf"),
        ({"test": ([0], [0], [1.0, 2.0])}, ValueError, "1, 1 and 2"),
        ({"test": 5}, TypeError, 5),
        ({"loss": "median"}, ValueError, "'median'"),
        ({"loss": None}, ValueError, None),
    ],
    ids=label,
)
def test_completion(arguments, kind, fragment):
    check(lambda: completion(**arguments), kind, fragment)


@pytest.mark.parametrize(
    ("arguments", "kind", "fragment"),
    [
        ({"shape": (5, 0)}, ValueError, 0),
        ({"observed": 0}, ValueError, 0),
        ({"observed": 36}, ValueError, 36),
        ({"observed": 30, "held_out": 6}, ValueError, 36),
        ({"observed": 2.0}, TypeError, 2.0),
        ({"held_out": -1}, ValueError, -1),
        ({"rank": 0}, ValueError, 0),
        ({"rank": 6}, ValueError, 6),
        ({"spectrum": []}, ValueError, []),
        ({"spectrum": [1.0, -1.0]}, ValueError, [1.0, -1.0]),
        ({"spectrum": [0.0, 0.0]}, ValueError, [0.0, 0.0]),
        ({"spectrum": [1.0, NAN]}, ValueError, "nan at (1,)"),
        ({"spectrum": [1.0] * 6}, ValueError, 6),
        ({"norm": 0.0}, ValueError, 0.0),
        ({"norm": NAN}, ValueError, "nan"),
        ({"symmetric": True}, ValueError, (7, 5)),
        ({"loss": "sum"}, ValueError, "'sum'"),
        ({"seed": -1}, ValueError, -1),
        ({"seed": 1.5}, TypeError, 1.5),
        ({"seed": "one"}, TypeError, "one"),
    ],
    ids=label,
)
def test_planted_completion(arguments, kind, fragment):
    small = {"shape": (7, 5), "rank": 1, "observed": 20}
    check(lambda: dmf.Completion.random(**small | arguments), kind, fragment)


@pytest.mark.parametrize(
    ("refused", "kind", "fragment"),
    [
        (lambda: dmf.Completion.from_sparse(np.eye(3)), TypeError, "ndarray"),
        (lambda: dmf.Completion.from_sparse(scipy.sparse.csr_array((3, 3))), ValueError, "empty"),
        (lambda: dmf.Completion.from_dense([1.0, 2.0]), ValueError, (2,)),
        (lambda: dmf.Completion.from_dense([[NAN, NAN]]), ValueError, "empty"),
        (lambda: dmf.Completion.from_dense([[NAN, INF]]), ValueError, "inf"),
        (lambda: dmf.Completion.from_dense([["a", "b"]]), TypeError, "<U1"),
    ],
    ids=["dense", "nothing stored", "vector", "nothing seen", "infinite", "strings"],
)
def test_completion_from_a_matrix(refused, kind, fragment):
    check(refused, kind, fragment)


SPARSE = scipy.sparse.csr_array(EYES.reshape(2, 9))


@pytest.mark.parametrize(
    ("arguments", "kind", "fragment"),
    [
        ({"matrices": np.eye(3)}, ValueError, (3, 3)),
        ({"matrices": EYES * NAN}, ValueError, "nan at (0, 0, 0)"),
        ({"matrices": EYES * 1j}, TypeError, "complex128"),
        ({"matrices": np.zeros((2, 0, 3))}, ValueError, 0),
        ({"matrices": np.zeros((0, 3, 3)), "values": []}, ValueError, "empty"),
        ({"values": [1.0]}, ValueError, "2 matrices, but 1 values"),
        ({"values": [1.0, INF]}, ValueError, "inf at (1,)"),
        ({"shape": (3, 2)}, ValueError, (3, 2)),
        ({"shape": 3}, TypeError, 3),
        ({"truth": np.eye(2)}, ValueError, (2, 2)),
        ({"loss": "mse"}, ValueError, "'mse'"),
        ({"matrices": SPARSE}, ValueError, "shape=(n, p)"),
        ({"matrices": SPARSE, "shape": (2, 4)}, ValueError, 9),
        ({"matrices": SPARSE * INF, "shape": (3, 3)}, ValueError, "inf"),
        ({"matrices": SPARSE[:1], "shape": (3, 3)}, ValueError, "1 matrices, but 2 values"),
        ({"matrices": scipy.sparse.csr_array((2, 9)), "shape": (3, 3)}, ValueError, "no entries"),
    ],
    ids=label,
)
def test_sensing(arguments, kind, fragment):
    check(lambda: dmf.Sensing(**{"matrices": EYES, "values": [1.0, 2.0]} | arguments), kind, fragment)


@pytest.mark.parametrize(
    ("refused", "kind", "fragment"),
    [
        (lambda: dmf.Sensing.gaussian((4, 3), 1, 5), ValueError, (4, 3)),
        (lambda: dmf.Sensing.gaussian((3, 3), 1, 0), ValueError, 0),
        (lambda: dmf.Sensing.gaussian((3, 3), 4, 5), ValueError, 4),
        (lambda: dmf.Sensing.gaussian((3, 3), 1, 5, std=-0.5), ValueError, -0.5),
        (lambda: dmf.Sensing.gaussian((3, 3), 1, 5, seed=-2), ValueError, -2),
        (lambda: dmf.Sensing.rank_one((4, 3), 1, 5), ValueError, (4, 3)),
        (lambda: dmf.Sensing.rank_one((3, 3), 1, -5), ValueError, -5),
        (lambda: dmf.Sensing.commuting(3, 4), ValueError, 4),
        (lambda: dmf.Sensing.commuting(0, 1), ValueError, 0),
        (lambda: dmf.Sensing.commuting(3, 1, basis="triangular"), ValueError, "'triangular'"),
        (lambda: dmf.Sensing.commuting(3, spectrum=[1.0, NAN]), ValueError, "nan"),
        (lambda: dmf.Sensing.commuting(3, spectrum=[1.0, -0.5]), ValueError, [1.0, -0.5]),
        (lambda: dmf.Sensing.commuting(3, spectrum=[0.0]), ValueError, [0.0]),
        (lambda: dmf.Sensing.commuting(3, spectrum=[]), ValueError, []),
        (lambda: dmf.Sensing.commuting(3, 1, norm=-1.0), ValueError, -1.0),
    ],
)
def test_planted_sensing(refused, kind, fragment):
    check(refused, kind, fragment)


@pytest.mark.parametrize(
    ("refused", "kind", "fragment"),
    [
        (lambda: dmf.Product(0), ValueError, 0),
        (lambda: dmf.Product(-3), ValueError, -3),
        (lambda: dmf.Product(2.0), TypeError, 2.0),
        (lambda: dmf.Product(True), TypeError, True),
        (lambda: dmf.Product("2"), TypeError, "'2'"),
        (lambda: dmf.Product(2, [4, 3]), ValueError, (4, 3)),
        (lambda: dmf.Product(3, [4]), ValueError, (4,)),
        (lambda: dmf.Product(1, [4]), ValueError, (4,)),
        (lambda: dmf.Product(2, [0]), ValueError, "widths[0] must be at least 1, not 0"),
        (lambda: dmf.Product(2, [1.5]), TypeError, 1.5),
        (lambda: dmf.Product(2, 7), TypeError, 7),
        (lambda: dmf.Symmetric(0), ValueError, 0),
        (lambda: dmf.Symmetric(2.5), TypeError, 2.5),
    ],
)
def test_factorizations(refused, kind, fragment):
    check(refused, kind, fragment)


@pytest.mark.parametrize(
    "initializer", [dmf.Gaussian, dmf.Uniform, dmf.Orthogonal, dmf.Identity, dmf.Balanced]
)
@pytest.mark.parametrize("scale", ["product_scale", "std"])
@pytest.mark.parametrize(
    ("value", "kind"),
    [(0.0, ValueError), (-1e-3, ValueError), (NAN, ValueError), (INF, ValueError), ("1", TypeError)],
)
def test_scales(initializer, scale, value, kind):
    check(lambda: initializer(**{scale: value}), kind, repr(value))


@pytest.mark.parametrize(
    ("refused", "kind", "fragment"),
    [
        (lambda: dmf.Gaussian(product_scale=0.25, std=0.5), ValueError, "product_scale=0.25, std=0.5"),
        (lambda: dmf.Balanced(product=np.eye(2), std=0.5), ValueError, "std"),
        (lambda: dmf.Balanced(product=[[1.0, NAN]]), ValueError, "nan at (0, 1)"),
        (lambda: dmf.Balanced(product=[1.0]), ValueError, (1,)),
        (lambda: dmf.FromProduct([[INF]]), ValueError, "inf at (0, 0)"),
        (lambda: dmf.FromProduct("matrix"), TypeError, "<U6"),
        (lambda: dmf.Factors([np.eye(2), [[NAN]]]), ValueError, "factor 2 holds nan"),
        (lambda: dmf.Factors([np.ones(2)]), ValueError, (2,)),
        (lambda: dmf.Factors(7), TypeError, 7),
    ],
)
def test_given_starts(refused, kind, fragment):
    check(refused, kind, fragment)


@pytest.mark.parametrize(
    ("factorization", "init", "fragment"),
    [
        (dmf.Product(2), dmf.Factors([np.ones((7, 5))]), "2 factor(s), but 1 were given"),
        (dmf.Product(2), dmf.Factors([]), "2 factor(s), but 0 were given"),
        (dmf.Product(2), dmf.Factors([np.ones((5, 5)), np.ones((5, 7))]), (5, 7)),
        (dmf.Product(2), dmf.Factors([np.ones((4, 5)), np.ones((7, 4))]), (4, 5)),
        (dmf.Product(2), dmf.FromProduct(np.ones((5, 7))), (5, 7)),
        (dmf.Product(2), dmf.Balanced(product=np.ones((5, 7))), (5, 7)),
        (dmf.Product(2, (1,)), dmf.Balanced(product=np.eye(7, 5)), "widths=(1,)"),
        (dmf.Symmetric(), dmf.Gaussian(), (7, 5)),
    ],
)
def test_starts_that_do_not_fit(factorization, init, fragment):
    check(lambda: dmf.run(SMALL, factorization=factorization, init=init), ValueError, fragment)


def test_indefinite_start_of_a_symmetric_factorization():
    square = dmf.Completion.random(shape=(3, 3), rank=1, observed=4, seed=0)
    start = dmf.Balanced(product=np.diag([1.0, 0.0, -2.0]))
    check(lambda: dmf.run(square, factorization=dmf.Symmetric(), init=start), ValueError, "off by 2")


@pytest.mark.parametrize(
    ("refused", "kind", "fragment"),
    [
        (lambda: dmf.GradientDescent(0.0), ValueError, 0.0),
        (lambda: dmf.GradientDescent(-0.5), ValueError, -0.5),
        (lambda: dmf.GradientDescent(NAN), ValueError, "nan"),
        (lambda: dmf.GradientDescent(INF), ValueError, "inf"),
        (lambda: dmf.GradientDescent("0.5"), TypeError, "'0.5'"),
        (lambda: dmf.GradientDescent(None), TypeError, None),
        (lambda: dmf.GradientDescent(True), TypeError, True),
        (lambda: dmf.GradientDescent(0.5, momentum=1.0), ValueError, 1.0),
        (lambda: dmf.GradientDescent(0.5, momentum=-0.1), ValueError, -0.1),
        (lambda: dmf.GradientDescent(0.5, momentum=NAN), ValueError, "nan"),
        (lambda: dmf.GroupRMSprop(lr=0), ValueError, 0),
        (lambda: dmf.GroupRMSprop(alpha=1.0), ValueError, 1.0),
        (lambda: dmf.GroupRMSprop(alpha=-0.5), ValueError, -0.5),
        (lambda: dmf.GroupRMSprop(eps=-1e-8), ValueError, -1e-8),
        (lambda: dmf.ExactLineSearch(max_step=0.0), ValueError, 0.0),
        (lambda: dmf.ExactLineSearch(max_step=NAN), ValueError, "nan"),
    ],
)
def test_optimizers(refused, kind, fragment):
    check(refused, kind, fragment)


@pytest.mark.parametrize(
    ("refused", "kind", "fragment"),
    [
        (lambda: dmf.LossBelow(-1e-6), ValueError, -1e-6),
        (lambda: dmf.LossBelow(NAN), ValueError, "nan"),
        (lambda: dmf.LossBelow(INF), ValueError, "inf"),
        (lambda: dmf.LossBelow("small"), TypeError, "'small'"),
        (lambda: dmf.GradientBelow(-1.0), ValueError, -1.0),
        (lambda: dmf.MaxSteps(-1), ValueError, -1),
        (lambda: dmf.MaxSteps(1e6), TypeError, 1e6),
        (lambda: dmf.TimeLimit(0.0), ValueError, 0.0),
        (lambda: dmf.TimeLimit(INF), ValueError, "inf"),
        (lambda: dmf.Stalled(0), ValueError, 0),
        (lambda: dmf.Stalled(2.5), TypeError, 2.5),
        (lambda: dmf.Stalled(10, rtol=-0.5), ValueError, -0.5),
        # The loss never falls by all of itself, so that such a run would end where it starts.
        (lambda: dmf.Stalled(10, rtol=1.0), ValueError, 1.0),
        (lambda: dmf.LossBelow(0.5) | 7, TypeError, 7),
        (lambda: dmf.LossBelow(0.5) & dmf.LossBelow, TypeError, dmf.LossBelow),
    ],
)
def test_stopping_criteria(refused, kind, fragment):
    check(refused, kind, fragment)


def loss_of(state):
    return state.loss


@pytest.mark.parametrize(
    ("arguments", "kind", "fragment"),
    [
        ({"every": 0}, ValueError, 0),
        ({"every": 1.5}, TypeError, 1.5),
        ({"per_decade": 0}, ValueError, 0),
        ({"per_decade": "ten"}, TypeError, "'ten'"),
        ({"at": [3, -1]}, ValueError, -1),
        ({"at": [0.5]}, TypeError, 0.5),
        ({"at": 7}, TypeError, 7),
        ({"at_loss": [0.0]}, ValueError, 0.0),
        ({"at_loss": [0.5, NAN]}, ValueError, "nan"),
        ({"at_loss": ["low"]}, TypeError, "'low'"),
        ({"at_loss": 0.25}, TypeError, 0.25),
        ({"metrics": ["loss", "lost"]}, ValueError, "'lost'"),
        ({"metrics": "loss"}, TypeError, "'loss'"),
        ({"metrics": ["loss", 7]}, TypeError, 7),
        ({"metrics": None}, TypeError, None),
        ({"metrics": {"mine": 7}}, TypeError, 7),
        ({"metrics": {"mine": "lost"}}, ValueError, "'lost'"),
        ({"metrics": [loss_of, loss_of]}, ValueError, "loss_of"),
        # These are the trace's own; a metric of that name would overwrite them.
        ({"metrics": {"step": "loss"}}, ValueError, "'step'"),
        ({"metrics": {"time": loss_of}}, ValueError, "'time'"),
        ({"metrics": {"evaluations": loss_of}}, ValueError, "'evaluations'"),
        # Files know names as text only.
        ({"metrics": {7: "loss"}}, TypeError, 7),
    ],
    ids=label,
)
def test_records(arguments, kind, fragment):
    check(lambda: dmf.Record(**arguments), kind, fragment)


#: Neither None nor anything that fits, true or false.
NEITHER = (7, 0, False, "x", "", [])


@pytest.mark.parametrize("value", NEITHER, ids=repr)
@pytest.mark.parametrize("name", ["factorization", "init", "optimizer", "stop", "record", "callback"])
def test_wrong_kinds_of_description(name, value):
    check(lambda: dmf.run(SMALL, **{name: value}), TypeError, repr(value))


@pytest.mark.parametrize("value", NEITHER, ids=repr)
def test_wrong_kind_of_problem(value):
    check(lambda: dmf.run(value), TypeError, repr(value))


@pytest.mark.parametrize(
    ("arguments", "kind", "fragment"),
    [
        ({"depth": 0}, ValueError, 0),
        ({"depth": 1.5}, TypeError, 1.5),
        ({"depth": 3, "factorization": dmf.Product(2)}, ValueError, "depth=3"),
        ({"lr": -0.5}, ValueError, -0.5),
        ({"lr": 0.5, "optimizer": dmf.GroupRMSprop()}, ValueError, "lr=0.5"),
        ({"seed": -1}, ValueError, -1),
        ({"seed": 1.5}, TypeError, 1.5),
        ({"seed": "one"}, TypeError, "'one'"),
        ({"seed": True}, TypeError, True),
        ({"seed": -1, "init": dmf.Identity()}, ValueError, -1),
        ({"seed": np.random.SeedSequence(7), "init": dmf.Identity()}, TypeError, "entropy=7"),
        ({"dtype": "int64"}, ValueError, "'int64'"),
        ({"dtype": np.float16}, ValueError, np.float16),
        ({"dtype": "complex128"}, ValueError, "'complex128'"),
        ({"dtype": "double precision"}, TypeError, "double precision"),
        ({"dtype": np.dtype("float64").newbyteorder()}, ValueError, "f8"),
        ({"device": "tpu"}, ValueError, "'tpu'"),
        ({"device": None}, ValueError, None),
        ({"threads": 0}, ValueError, 0),
        ({"threads": 1.5}, TypeError, 1.5),
        ({"threads": True}, TypeError, True),
        ({"threads": 10**6}, ValueError, 10**6),
        ({"callback": 7}, TypeError, 7),
        ({"checkpoint": 7}, TypeError, 7),
    ],
    ids=label,
)
def test_options_of_a_run(arguments, kind, fragment):
    check(lambda: dmf.run(SMALL, **arguments), kind, fragment)


def test_checkpoint_in_a_missing_folder(tmp_path):
    path = tmp_path / "missing" / "run.npz"
    check(lambda: dmf.run(SMALL, checkpoint=path), ValueError, path.parent)
    check(lambda: dmf.Checkpoint(os.fspath(path)), ValueError, path.parent)


def test_checkpoint_that_is_a_folder(tmp_path):
    check(lambda: dmf.run(SMALL, checkpoint=tmp_path), ValueError, tmp_path)


@pytest.mark.parametrize(("seconds", "kind"), [(0.0, ValueError), (NAN, ValueError), ("1", TypeError)])
def test_checkpoint_intervals(tmp_path, seconds, kind):
    check(lambda: dmf.Checkpoint(tmp_path / "run.npz", every_seconds=seconds), kind, repr(seconds))


@pytest.fixture(scope="module")
def loop():
    return dmf.Loop(SMALL, dmf.Product(2), dmf.GradientDescent(0.5))


@pytest.mark.parametrize(
    ("arguments", "kind", "fragment"),
    [
        ({"problem": 7}, TypeError, 7),
        ({"factorization": 7}, TypeError, 7),
        ({"factorization": dmf.Symmetric()}, ValueError, (7, 5)),
        ({"optimizer": 7}, TypeError, 7),
        ({"dtype": "float16"}, ValueError, "'float16'"),
        ({"device": "tpu"}, ValueError, "'tpu'"),
        ({"threads": -1}, ValueError, -1),
    ],
    ids=label,
)
def test_loops(arguments, kind, fragment):
    good = {"problem": SMALL, "factorization": dmf.Product(2), "optimizer": dmf.GradientDescent(0.5)}
    check(lambda: dmf.Loop(**good | arguments), kind, fragment)


@pytest.mark.parametrize(
    ("init", "seed", "kind", "fragment"),
    [
        (7, 0, TypeError, 7),
        (dmf.Factors([np.ones((7, 5))]), None, ValueError, "1 were given"),
        (dmf.Gaussian(), -1, ValueError, -1),
        (dmf.Gaussian(), 1.5, TypeError, 1.5),
        (dmf.Gaussian(), True, TypeError, True),
    ],
)
def test_starts_of_a_loop(loop, init, seed, kind, fragment):
    check(lambda: loop.init(init, seed), kind, fragment)


@pytest.mark.parametrize(("steps", "kind"), [(-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_numbers_of_steps(loop, steps, kind):
    check(lambda: loop.advance(loop.init(seed=0), steps), kind, steps)


def test_states_of_another_loop(loop):
    other = dmf.Completion.random(shape=(7, 5), rank=1, observed=20, seed=1)
    for problem, factorization, optimizer in (
        (other, dmf.Product(2), dmf.GradientDescent(0.5)),
        (SMALL, dmf.Product(2, (3,)), dmf.GradientDescent(0.5)),
        (SMALL, dmf.Product(2), dmf.GradientDescent(0.25)),
    ):
        state = dmf.Loop(problem, factorization, optimizer).init(seed=0)
        offending = next(x for x in (problem, factorization, optimizer) if x not in vars(loop).values())
        check(lambda state=state: loop.advance(state, 1), ValueError, offending)
    state = dmf.Loop(SMALL, dmf.Product(2), loop.optimizer, dtype="float32").init(seed=0)
    check(lambda: loop.advance(state, 1), TypeError, "float32")
    check(lambda: loop.advance(7, 1), TypeError, 7)


GOOD_FACTORS = (np.ones((5, 5)), np.ones((7, 5)))


@pytest.mark.parametrize(
    ("arguments", "kind", "fragment"),
    [
        ({"problem": 7}, TypeError, 7),
        ({"factors": []}, ValueError, "empty"),
        ({"factors": [np.ones(5), np.ones((7, 5))]}, ValueError, (5,)),
        ({"factors": [np.ones((5, 5), np.float32), np.ones((7, 5))]}, TypeError, "float32"),
        ({"factors": [np.ones((5, 5), int), np.ones((7, 5), int)]}, TypeError, "int64"),
        ({"factors": [np.ones((4, 5)), np.ones((7, 3))]}, ValueError, (7, 3)),
        ({"factors": [np.ones((5, 7))]}, ValueError, (5, 7)),
        ({"symmetric": True}, ValueError, (7, 5)),
    ],
    ids=label,
)
def test_loss_and_gradients(arguments, kind, fragment):
    good = {"problem": SMALL, "factors": GOOD_FACTORS}
    check(lambda: dmf.loss_and_gradients(**good | arguments), kind, fragment)


@pytest.mark.parametrize(
    ("refused", "kind", "fragment"),
    [
        (lambda: dmf.metrics.schatten(np.eye(2), 0.0), ValueError, 0.0),
        (lambda: dmf.metrics.schatten(np.eye(2), -1.0), ValueError, -1.0),
        (lambda: dmf.metrics.schatten(np.eye(2), NAN), ValueError, "nan"),
        (lambda: dmf.metrics.numerical_rank(np.eye(2), rtol=-0.5), ValueError, -0.5),
        (lambda: dmf.datasets.movielens_100k(observed=0), ValueError, 0),
        (lambda: dmf.datasets.movielens_100k(observed=100_001), ValueError, 100_001),
        (lambda: dmf.datasets.movielens_100k(observed=1e4), TypeError, 1e4),
        (lambda: dmf.datasets.movielens_100k("absent", seed=-1), ValueError, -1),
        (lambda: dmf.datasets.movielens_100k("absent", seed=1.5), TypeError, 1.5),
    ],
)
def test_metrics_and_data(refused, kind, fragment):
    check(refused, kind, fragment)
