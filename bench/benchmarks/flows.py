"""The gradient flow: seconds, evaluations, and beside the steps that the papers' code takes."""

import fastdmf as dmf

from ._peers import TorchAutograd, _torch
from ._timing import seconds_per_step

#: Steps of GroupRMSprop to a mean squared loss of 1e-6 on 2000 entries of a 100 × 100 matrix of rank 5.
PAPERS_STEPS = {2: 31_000, 3: 28_400, 4: 28_600}


def flow(problem, depth, dtype="float32", **choices):
    """A whole run from ``Gaussian(product_scale=1e-3)`` to that loss."""
    result = dmf.run(
        problem,
        depth=depth,
        optimizer=dmf.GradientFlow(**choices),
        record=dmf.Record(at=()),
        seed=0,
        dtype=dtype,
    )
    assert str(result.status) == "converged", result.status
    return result


class ToLoss:
    """Whole flows, compiled and warm."""

    params = ([2, 3, 4], ["float32", "float64"])
    param_names = ("depth", "dtype")
    timeout = 300

    def setup(self, depth, dtype):
        self.problem = dmf.Completion.random()
        flow(self.problem, depth, dtype)  # compiles

    def time_flow(self, depth, dtype):
        flow(self.problem, depth, dtype)

    def track_evaluations(self, depth, dtype):
        return flow(self.problem, depth, dtype).evaluations


class Reference:
    """The same by Dormand and Prince's method, to 1e-8 a step."""

    params = ([2, 3, 4],)
    param_names = ("depth",)
    timeout = 300

    def setup(self, depth):
        self.problem = dmf.Completion.random()

    def track_evaluations(self, depth):
        return flow(self.problem, depth, "float64", rtol=1e-8, method="dopri5").evaluations


class TorchGroupRMSprop(TorchAutograd):
    """The optimizer of the code released with Arora et al. (2019), by autograd."""

    def __init__(self, problem, factors, lr=1e-3, alpha=0.99, eps=1e-4):
        super().__init__(problem, factors)
        self.lr, self.alpha, self.eps = lr, alpha, eps
        self.mean_square, self.steps = 0.0, 0
        self.optimizer = self  # what the loop there calls

    def zero_grad(self):
        for w in self.w:
            w.grad = None

    def step(self):
        torch = _torch()
        with torch.no_grad():
            square = sum(float(torch.sum(w.grad**2)) for w in self.w)
            self.steps += 1
            self.mean_square = self.alpha * self.mean_square + (1 - self.alpha) * square
            unbiased = self.mean_square / (1 - self.alpha**self.steps)
            for w in self.w:
                w -= self.lr / (unbiased**0.5 + self.eps) * w.grad


class BesideThePapersCode:
    """How many times faster the flow is there than GroupRMSprop stepped by autograd."""

    params = ([2, 3, 4],)
    param_names = ("depth",)
    unit = "times faster"
    timeout = 300

    def setup(self, depth):
        self.problem = dmf.Completion.random()
        init = dmf.Gaussian(product_scale=1e-3)
        loop = dmf.Loop(self.problem, dmf.Product(depth), dmf.GradientFlow(), dtype="float32")
        self.peer = TorchGroupRMSprop(self.problem, loop.init(init, seed=0).factors)

    def track_times_faster(self, depth):
        def whole_flows(count):
            for _ in range(count):
                flow(self.problem, depth)

        theirs, ours = seconds_per_step(self.peer.advance, whole_flows)
        return theirs * PAPERS_STEPS[depth] / ours
