"""The iteration loop: trajectories, their values, and how long compiled code runs at a stretch."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter

import numpy as np
import numpy.typing as npt

from fastdmf import backends
from fastdmf._checks import Array, count
from fastdmf.backends import Event, Halts, Leg, Lockstep, Trajectory
from fastdmf.factorizations import Factorization, Product, Symmetric
from fastdmf.initializers import Gaussian, Initializer
from fastdmf.optimizers import Optimizer
from fastdmf.problems import Problem
from fastdmf.state import State

#: Compiled code returns to Python about this often, for Ctrl-C, time limits and progress.
STRETCH_SECONDS = 0.05


#: Which of the independent streams of a seed the start is drawn from.
_START_STREAM = 1


class Loop:
    """Problem × factorization × optimizer, bound to compiled code: for callers who own the loop.

    Parameters
    ----------
    problem : Completion or Sensing
        What is measured.
    factorization : Product or Symmetric
        How the matrix is parameterized.
    optimizer : GradientDescent, GroupRMSprop, ExactLineSearch or GradientFlow
        How the factors move.
    dtype : {"float64", "float32"}
        Arithmetic of the run; problem and start are converted to it.
    device : {"cpu", "cuda"}
        Where it runs; never chosen by itself.  On a GPU, through CuPy, all work goes on the stream that is
        current there now.
    threads : int
        Threads of kernels and BLAS.  The kernels give the same bits for every number, BLAS the same
        numbers to rounding.

    Raises
    ------
    ValueError, TypeError
        For choices that do not fit together.

    Examples
    --------
    >>> import fastdmf as dmf
    >>> loop = dmf.Loop(dmf.Completion.random(), dmf.Product(depth=2), dmf.GradientDescent(lr=0.5))
    >>> state = loop.init(dmf.Gaussian(product_scale=1e-3), seed=0)
    >>> state = loop.advance(state, steps=100)
    >>> state.step
    100

    To a threshold, with a flow that may come to rest above it:

    >>> loop = dmf.Loop(dmf.Completion.random(), dmf.Product(depth=2), dmf.GradientFlow())
    >>> state = loop.init(seed=0)
    >>> while state.loss > 1e-6 and not state.stalled:
    ...     state = loop.advance(state, steps=100)
    """

    def __init__(
        self,
        problem: Problem,
        factorization: Factorization,
        optimizer: Optimizer,
        *,
        dtype: npt.DTypeLike = "float64",
        device: str = "cpu",
        threads: int = 1,
    ) -> None:
        self.problem, self.factorization, self.optimizer = problem, factorization, optimizer
        self.engine = backends.bind(problem, factorization, optimizer, dtype, device, threads)
        self.dtype, self.device, self.threads = np.dtype(dtype), device, threads

    def __reduce__(self) -> tuple[Callable[..., "Loop"], tuple[object, ...]]:
        """Copies and other processes bind anew: compiled code is known by addresses in this process."""
        bind = partial(Loop, dtype=self.dtype, device=self.device, threads=self.threads)
        return bind, (self.problem, self.factorization, self.optimizer)

    def start(self, init: Initializer, seed: int | None) -> Trajectory:
        """A trajectory from a start drawn with ``seed``: what `run` moves in place."""
        if not isinstance(init, Initializer):
            raise TypeError(
                f"init must be an initializer such as Gaussian() or Factors(arrays), not {init!r}"
            )
        # A stream of its own: problem and start may be given one seed, and must not share their numbers.
        if seed is not None:
            count("seed", seed, least=0)
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_START_STREAM,)))
        return self.engine.start(init.draw(self.factorization, self.problem.shape, rng))

    def init(self, init: Initializer | None = None, seed: int | None = None) -> State:
        """The state at a start, ``Gaussian(product_scale=1e-3)`` by default.

        Parameters
        ----------
        init : Initializer, optional
            How the start is drawn.
        seed : int, optional
            Seed of the generator; None draws fresh entropy.
        """
        return self.start(Gaussian() if init is None else init, seed).state()

    def advance(self, state: State, steps: int = 1) -> State:
        """The state after up to ``steps`` more steps; the argument is not changed.

        It stops early only at divergence: the returned state is then the last finite one and says
        ``diverged``; advancing it again raises ValueError.  A flow also stops where it rests to rounding: the
        returned state says ``stalled``, and advancing it again leads nowhere.
        """
        count("steps", steps, least=0)
        if not isinstance(state, State):
            raise TypeError(f"state must be a State, not {state!r}")
        if state.problem != self.problem:
            raise ValueError(
                f"the state is of {state.problem} with digest {state.problem.digest[:8]}, but the loop of "
                f"{self.problem} with digest {self.problem.digest[:8]}"
            )
        for name in ("factorization", "optimizer"):
            if getattr(state, name) != getattr(self, name):
                raise ValueError(
                    f"the state is of {name} {getattr(state, name)}, but the loop of {getattr(self, name)}; "
                    "init=Factors(state.factors) starts afresh from where it is"
                )
        if state.factors[0].dtype != self.dtype:
            raise TypeError(f"the state is of {state.factors[0].dtype}, but the loop of {self.dtype}")
        if state.diverged:
            raise ValueError(
                f"the state at step {state.step} is the last finite one and cannot be advanced: use a "
                "smaller learning rate"
            )
        if state.stalled:
            return state
        trajectory = self.engine.resume(state.factors, state.memory, state.evaluations)
        pace = Pace()
        target = trajectory.step + steps
        event = Event.ALL_STEPS
        while trajectory.step < target and event not in (Event.DIVERGED, Event.STUCK):
            event = pace.advance(trajectory, target - trajectory.step)
        return trajectory.state()


class Pace:
    """Cuts long advances into stretches of about :data:`STRETCH_SECONDS`."""

    def __init__(self) -> None:
        self._seconds_per_step = math.inf

    @property
    def is_unhurried(self) -> bool:
        """Whether the next stretch may take longer than intended: a single step does, or none is known."""
        return self._seconds_per_step > STRETCH_SECONDS

    def advance(
        self, trajectory: Trajectory, steps: int, halts: Halts = (), until: float = math.inf
    ) -> Event:
        """Advance by at most ``steps`` steps, and by no more than one stretch."""
        before, begin = trajectory.step, perf_counter()
        event = trajectory.advance(self._affordable(steps), halts, until)
        self._learn(trajectory.step - before, perf_counter() - begin)
        return event

    def advance_together(
        self, lockstep: Lockstep, trajectories: Sequence[Trajectory], legs: Sequence[Leg]
    ) -> None:
        """The same for the trajectories of a lockstep."""
        before, begin = [t.step for t in trajectories], perf_counter()
        lockstep.advance([leg._replace(steps=self._affordable(leg.steps)) for leg in legs])
        taken = max(t.step - b for t, b in zip(trajectories, before, strict=True))
        self._learn(taken, perf_counter() - begin)

    def _affordable(self, steps: int) -> int:
        return min(steps, max(1, int(STRETCH_SECONDS / self._seconds_per_step)))

    def _learn(self, steps: int, seconds: float) -> None:
        if steps:
            self._seconds_per_step = seconds / steps


def loss_and_gradients(
    problem: Problem, factors: Sequence[npt.ArrayLike], symmetric: bool = False
) -> tuple[float, list[Array]]:
    """Loss and its gradient in every factor, for drivers such as torch, optax or scipy.optimize.

    Parameters
    ----------
    problem : Completion or Sensing
        What is measured.
    factors : sequence of (k_j, k_{j−1}) array_like
        [W_1, …, W_N], all float64 or all float32; [U] if ``symmetric``.
    symmetric : bool
        Whether W = UUᵀ.

    Returns
    -------
    loss : float
        In the problem's normalization.
    gradients : list of ndarray
        In the shapes of the factors, freshly allocated.

    Raises
    ------
    ValueError, TypeError
        For shapes that do not chain, mixed or unsupported dtypes.

    Notes
    -----
    Factors left of the observations are used where they lie if they are C-contiguous, those right of
    them (W_1, always) if they are Fortran-contiguous, as in ``state.factors``; others are copied.
    What depends on the problem alone is prepared once and kept with it.
    """
    arrays = [np.asarray(w) for w in factors]
    if not arrays:
        raise ValueError("factors is empty")
    for j, w in enumerate(arrays, start=1):
        if w.ndim != 2:
            raise ValueError(f"factor {j} must have 2 dimensions, not shape {w.shape}")
        if w.dtype.name not in backends.DTYPES:
            raise TypeError(f"factor {j} is {w.dtype}; factors must be float64 or float32")
        if w.dtype != arrays[0].dtype:
            raise TypeError(
                f"factors must be all float64 or all float32, but factor {j} is {w.dtype} and factor 1 is "
                f"{arrays[0].dtype}"
            )
    if symmetric:
        factorization: Factorization = Symmetric(arrays[0].shape[1])
    else:
        factorization = Product(len(arrays), tuple(w.shape[0] for w in arrays[:-1]))
    if not isinstance(problem, Problem):
        raise TypeError(f"problem must be a Completion or Sensing, not {problem!r}")
    factorization.check_factors(arrays, problem.shape)
    key = (factorization, arrays[0].dtype)
    if key not in problem.bound:
        problem.bound[key] = backends.bind_objective(problem, factorization, arrays[0].dtype)
    return problem.bound[key].loss_and_gradients(arrays)
