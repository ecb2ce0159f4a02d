"""How many times faster than the usual ways, in one process, on one thread, by the ratio of medians.

Each peer takes plain gradient steps on the same 2000 entries of a 100 × 100 matrix.  A peer that is not
installed is skipped.
"""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import statistics
from time import perf_counter

import numpy as np

import fastdmf as dmf

LR = 1e-3
STEPS, ROUNDS = 200, 9


def fastdmf_steps(problem, factors, dtype):
    loop = dmf.Loop(problem, dmf.Product(len(factors)), dmf.GradientDescent(LR), dtype=dtype)
    state = loop.init(dmf.Factors(factors))
    return lambda: loop.advance(state, STEPS)


def numpy_steps(problem, factors, dtype):
    """Dense products, and the residual scattered into a matrix."""
    places = np.ravel_multi_index((problem.rows, problem.cols), problem.shape)
    values = problem.values.astype(dtype)
    scale, lr = np.dtype(dtype).type(problem.loss_scale), np.dtype(dtype).type(LR)
    gradient = np.zeros(problem.shape, dtype)
    factors = [np.array(w, dtype) for w in factors]

    def steps():
        for _ in range(STEPS):
            prefixes = [factors[0]]
            for w in factors[1:]:
                prefixes.append(w @ prefixes[-1])
            gradient.ravel()[places] = scale * (prefixes[-1].ravel()[places] - values)
            back, moves = gradient, []
            for w, before in zip(reversed(factors[1:]), reversed(prefixes[:-1]), strict=True):
                moves.append(back @ before.T)
                back = w.T @ back
            for w, move in zip(factors, [back, *reversed(moves)], strict=True):
                w -= lr * move

    return steps


def torch_steps(problem, factors, dtype):
    """Autograd and SGD, as the papers' code does."""
    import torch  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    parameters = [torch.tensor(np.array(w, dtype), requires_grad=True) for w in factors]
    rows, cols = (torch.tensor(x.astype(np.int64)) for x in (problem.rows, problem.cols))
    values = torch.tensor(problem.values.astype(dtype))
    optimizer = torch.optim.SGD(parameters, lr=LR)

    def steps():
        for _ in range(STEPS):
            optimizer.zero_grad()
            product = parameters[0]
            for w in parameters[1:]:
                product = w @ product
            ((product[rows, cols] - values) ** 2).mean().backward()
            optimizer.step()

    return steps


def jax_steps(problem, factors, dtype):
    """The whole loop compiled, the loss masked, which is faster here than gathering entries."""
    import jax  # pyright: ignore[reportMissingImports]
    import jax.numpy as jnp  # pyright: ignore[reportMissingImports]

    jax.config.update("jax_enable_x64", True)
    mask, target = np.zeros(problem.shape, dtype), np.zeros(problem.shape, dtype)
    mask[problem.rows, problem.cols] = 1
    target[problem.rows, problem.cols] = problem.values

    def loss(parameters):
        product = parameters[0]
        for w in parameters[1:]:
            product = w @ product
        return jnp.sum(mask * (product - target) ** 2) / problem.values.size

    def step(_, parameters):
        gradients = jax.grad(loss)(parameters)
        return [w - np.dtype(dtype).type(LR) * g for w, g in zip(parameters, gradients, strict=True)]

    compiled = jax.jit(lambda parameters: jax.lax.fori_loop(0, STEPS, step, parameters))
    start = [jnp.array(np.array(w, dtype)) for w in factors]
    return lambda: jax.block_until_ready(compiled(start))


PEERS = {"numpy": numpy_steps, "torch": torch_steps, "jax": jax_steps}


class Peers:
    """Seconds of a peer over seconds of fastdmf."""

    params = (list(PEERS), [2, 3, 4], ["float32", "float64"])
    param_names = ("peer", "depth", "dtype")
    unit = "times faster"
    timeout = 300

    def setup(self, peer, depth, dtype):
        problem = dmf.Completion.random()
        factors = dmf.Gaussian().draw(dmf.Product(depth), problem.shape, np.random.default_rng(0))
        try:
            self.peer = PEERS[peer](problem, factors, dtype)
        except ImportError as error:
            raise NotImplementedError(f"{peer} is not installed") from error  # asv then skips it
        self.ours = fastdmf_steps(problem, factors, dtype)

    def track_ratio(self, peer, depth, dtype):
        seconds = {self.peer: [], self.ours: []}
        for steps in seconds:
            steps()
        for _ in range(ROUNDS):
            for steps, measured in seconds.items():
                begin = perf_counter()
                steps()
                measured.append(perf_counter() - begin)
        return statistics.median(seconds[self.peer]) / statistics.median(seconds[self.ours])
