"""The usual ways to take plain gradient steps on a completion, and fastdmf beside them.

Each takes a problem and the factors [W_1, …, W_N], advances in place, and gives its factors back, so that
what is timed is also compared.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

import fastdmf as dmf

from ._timing import seconds_per_step

Array = np.ndarray[Any, np.dtype[Any]]
LR = 0.5


class Peer(Protocol):
    def advance(self, steps: int) -> None: ...

    def factors(self) -> list[Array]: ...


class Engine:
    """fastdmf, moving in place as `run` does."""

    def __init__(self, problem: dmf.Completion, factors: Sequence[Array], threads: int = 1) -> None:
        factorization = dmf.Product(len(factors), tuple(w.shape[0] for w in factors[:-1]))
        dtype = factors[0].dtype
        loop = dmf.Loop(problem, factorization, dmf.GradientDescent(LR), dtype=dtype, threads=threads)
        self.trajectory = loop.start(dmf.Factors(factors), seed=None)

    def advance(self, steps: int) -> None:
        self.trajectory.advance(steps)

    def factors(self) -> list[Array]:
        return self.trajectory.state().factors


class Dense:
    """Whole products into memory kept for them, gradients written by hand; NumPy.

    The residual is masked, which is faster here than gathering and scattering entries.
    """

    def __init__(
        self,
        problem: dmf.Completion,
        factors: Sequence[Array],
        array: Callable[..., Any] = np.array,
        multiply: Callable[..., Any] = np.matmul,
    ) -> None:
        target, weights = _masked(problem, factors[0].dtype)
        self.target, self.weights = array(target), array(LR * weights)
        self.w = [array(w) for w in factors]
        p, dtype = problem.shape[1], factors[0].dtype
        self.prefixes = [self.w[0], *(array(np.empty((w.shape[0], p), dtype)) for w in factors[1:])]
        self.moves = [array(np.empty_like(w)) for w in factors]
        self.backs = [array(np.empty((w.shape[0], p), dtype)) for w in factors[:-1]]
        self.multiply = multiply

    def advance(self, steps: int) -> None:
        multiply, w, prefixes = self.multiply, self.w, self.prefixes
        for _ in range(steps):
            for j in range(1, len(w)):
                multiply(w[j], prefixes[j - 1], out=prefixes[j])
            back = prefixes[-1]  # W, and then lr ∂ℓ/∂W
            back -= self.target
            back *= self.weights
            for j in range(len(w) - 1, 0, -1):
                multiply(back, prefixes[j - 1].T, out=self.moves[j])
                # At j = 1 this is the move of W_1.
                back = multiply(w[j].T, back, out=self.backs[j - 1])
            w[0] -= back
            for j in range(1, len(w)):
                w[j] -= self.moves[j]

    def factors(self) -> list[Array]:
        return [np.asarray(w) for w in self.w]


def torch_dense(problem: dmf.Completion, factors: Sequence[Array]) -> Dense:
    """The same in PyTorch."""
    torch = _torch()
    return Dense(problem, factors, torch.tensor, torch.mm)


class TorchAutograd:
    """Autograd and SGD, as the papers' code does."""

    def __init__(self, problem: dmf.Completion, factors: Sequence[Array]) -> None:
        torch = _torch()
        self.w = [torch.tensor(w, requires_grad=True) for w in factors]
        self.rows, self.cols = (torch.tensor(x.astype(np.int64)) for x in (problem.rows, problem.cols))
        self.values = torch.tensor(problem.values.astype(factors[0].dtype))
        self.optimizer = torch.optim.SGD(self.w, lr=LR)

    def advance(self, steps: int) -> None:
        for _ in range(steps):
            self.optimizer.zero_grad()
            product = self.w[0]
            for w in self.w[1:]:
                product = w @ product
            ((product[self.rows, self.cols] - self.values) ** 2).mean().backward()
            self.optimizer.step()

    def factors(self) -> list[Array]:
        return [w.detach().numpy() for w in self.w]


class TorchSparse:
    """``sampled_addmm`` and two sparse products; the transposed residual by a permutation of values."""

    def __init__(self, problem: dmf.Completion, factors: Sequence[Array]) -> None:
        if len(factors) != 2:
            raise NotImplementedError("torch.sparse is compared at depth 2 only")
        self.torch = torch = _torch()
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        torch.sparse.check_sparse_tensor_invariants.disable()
        n, p = problem.shape
        self.a, self.b = torch.tensor(factors[1]), torch.tensor(np.ascontiguousarray(factors[0].T))
        order = np.lexsort((problem.cols, problem.rows))
        rows, cols = problem.rows[order], problem.cols[order]
        values = torch.tensor(problem.values[order].astype(factors[0].dtype))
        self.measured = torch.sparse_csr_tensor(_starts(rows, n), torch.tensor(cols), values, (n, p))
        by_column = np.argsort(cols, kind="stable")
        self.permutation = torch.tensor(by_column)
        self.starts, self.places = _starts(cols, p), torch.tensor(rows[by_column])
        self.rate = LR * problem.loss_scale

    def advance(self, steps: int) -> None:
        torch, a, b = self.torch, self.a, self.b
        for _ in range(steps):
            r = torch.sparse.sampled_addmm(self.measured, a, b.T, beta=-1.0)
            transposed = torch.sparse_csr_tensor(
                self.starts, self.places, r.values()[self.permutation], r.shape[::-1]
            )
            move_a, move_b = r @ b, transposed @ a
            a.sub_(move_a, alpha=self.rate)
            b.sub_(move_b, alpha=self.rate)

    def factors(self) -> list[Array]:
        return [self.b.numpy().T, self.a.numpy()]


class Jax:
    """The whole loop compiled, the loss masked, which is faster here than gathering entries."""

    def __init__(self, problem: dmf.Completion, factors: Sequence[Array]) -> None:
        try:
            import jax  # pyright: ignore[reportMissingImports]
            import jax.numpy as jnp  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise NotImplementedError("JAX is not installed") from error
        jax.config.update("jax_enable_x64", True)
        dtype = factors[0].dtype
        target, weights = _masked(problem, dtype)

        def loss(parameters):
            product = parameters[0]
            for w in parameters[1:]:
                product = w @ product
            return jnp.sum(weights * (product - target) ** 2) / 2

        def step(_, parameters):
            gradients = jax.grad(loss)(parameters)
            return [w - dtype.type(LR) * g for w, g in zip(parameters, gradients, strict=True)]

        self._compiled = jax.jit(lambda steps, parameters: jax.lax.fori_loop(0, steps, step, parameters))
        self._wait = jax.block_until_ready
        self.w = [jnp.array(w) for w in factors]

    def advance(self, steps: int) -> None:
        self.w = self._wait(self._compiled(steps, self.w))

    def factors(self) -> list[Array]:
        return [np.asarray(w) for w in self.w]


PEERS: dict[str, Callable[[dmf.Completion, Sequence[Array]], Peer]] = {
    "numpy": Dense,
    "jax": Jax,
    "torch": torch_dense,
    "torch_autograd": TorchAutograd,
    "torch_sparse": TorchSparse,
}


class Race:
    """A peer and fastdmf from one start.

    Where the peer cannot run, construction raises NotImplementedError with the reason: asv then skips.
    """

    def __init__(
        self,
        peer: str,
        problem: dmf.Completion,
        dtype: str = "float32",
        depth: int = 2,
        widths: Sequence[int] | None = None,
    ) -> None:
        start = starting_factors(problem, dtype, depth, widths)
        self.peer, self.engine = PEERS[peer](problem, start), Engine(problem, start)
        self._check(start)

    def _check(self, start: Sequence[Array]) -> None:
        """Both have moved by the same after three steps, but for what rounding takes from the factors."""
        self.peer.advance(3)
        self.engine.advance(3)
        tolerance = 1e-2 if start[0].dtype == np.float32 else 1e-9
        for w, theirs, ours in zip(start, self.peer.factors(), self.engine.factors(), strict=True):
            difference, moved = np.linalg.norm(theirs - ours), np.linalg.norm(ours - w)
            rounding = 3 * np.finfo(w.dtype).eps * np.linalg.norm(w)
            if not difference <= tolerance * moved + rounding:
                raise RuntimeError(f"{self.peer} and fastdmf differ by {difference} after moving by {moved}")

    def ratio(self, rounds: int = 9) -> float:
        """Seconds of the peer over seconds of fastdmf."""
        theirs, ours = seconds_per_step(self.peer.advance, self.engine.advance, rounds=rounds)
        return theirs / ours


def starting_factors(
    problem: dmf.Completion, dtype: str, depth: int = 2, widths: Sequence[int] | None = None
) -> list[Array]:
    """Where every peer starts: of the size of the matrix sought, so that steps move what rounding keeps."""
    factorization = dmf.Product(depth, None if widths is None else tuple(widths))
    init = dmf.Gaussian(product_scale=1.0)
    return [w.astype(dtype) for w in init.draw(factorization, problem.shape, np.random.default_rng(0))]


def _masked(problem: dmf.Completion, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """The observed values, and the factor 2/m of the loss where they are; zeros elsewhere."""
    target, weights = np.zeros(problem.shape, dtype), np.zeros(problem.shape, dtype)
    target[problem.rows, problem.cols] = problem.values
    weights[problem.rows, problem.cols] = problem.loss_scale
    return target, weights


def _torch() -> Any:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise NotImplementedError("PyTorch is not installed") from error
    torch.set_num_threads(1)
    return torch


def _starts(sorted_places: Array, size: int) -> Any:
    """Where each row of a compressed sparse matrix starts."""
    counts = np.bincount(sorted_places, minlength=size)
    return _torch().tensor(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
