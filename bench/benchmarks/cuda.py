"""On a GPU: steps by depth, size and dtype, small trials by the hundred, dense sensing.

Without CuPy, a driver or a GPU all are skipped, and say which is missing.
"""

import fastdmf as dmf


def loop_on_gpu(problem, factorization, optimizer, dtype):
    """The loop; skipped where it cannot be had."""
    try:
        return dmf.Loop(problem, factorization, optimizer, dtype=dtype, device="cuda")
    except ValueError as missing:
        raise NotImplementedError(str(missing)) from None


class _Steps:
    """Many steps of one trajectory, which is waited for."""

    timeout = 300

    def _start(self, problem, factorization, dtype, optimizer=None):
        optimizer = optimizer or dmf.GradientDescent(lr=1e-3)
        self.trajectory = loop_on_gpu(problem, factorization, optimizer, dtype).start(dmf.Gaussian(), seed=0)
        self.trajectory.advance(1)


class Completion(_Steps):
    """On a fifth of the entries of a square matrix, at full width."""

    params = ([1, 2, 3, 4], [100, 300, 1000, 3000], ["float32", "float64"])
    param_names = ("depth", "size", "dtype")

    def setup(self, depth, size, dtype):
        problem = dmf.Completion.random((size, size), observed=size**2 // 5)
        self._start(problem, dmf.Product(depth), dtype)

    def time_hundred_steps(self, depth, size, dtype):
        self.trajectory.advance(100)


RULES = {
    "momentum": dmf.GradientDescent(lr=1e-3, momentum=0.9),
    "line_search": dmf.ExactLineSearch(),
    "group_rmsprop": dmf.GroupRMSprop(),
}


class Optimizers(_Steps):
    """On 2000 entries of a 100 × 100 matrix at depth 3."""

    params = (list(RULES), ["float32", "float64"])
    param_names = ("optimizer", "dtype")

    def setup(self, optimizer, dtype):
        self._start(dmf.Completion.random(), dmf.Product(3), dtype, RULES[optimizer])

    def time_hundred_steps(self, optimizer, dtype):
        self.trajectory.advance(100)


class LargeCompletion(_Steps):
    """On 10⁷ entries of a 100,000 × 10,000 matrix at width 64, depth 2, float32."""

    def setup(self):
        loop_on_gpu(dmf.Completion.random(), dmf.Product(2), dmf.GradientDescent(1e-3), "float32")
        problem = dmf.Completion.random((100_000, 10_000), observed=10**7, keep_truth=False)
        self._start(problem, dmf.Product(2, (64,)), "float32")

    def time_ten_steps(self):
        self.trajectory.advance(10)


class DenseSensing(_Steps):
    """On 2000 Gaussian measurements of a 100 × 100 matrix at depth 2."""

    params = ([False, True], ["float32", "float64"])
    param_names = ("symmetric", "dtype")

    def setup(self, symmetric, dtype):
        problem = dmf.Sensing.gaussian((100, 100), 5, 2000, symmetric=symmetric)
        self._start(problem, dmf.Product(2), dtype)

    def time_hundred_steps(self, symmetric, dtype):
        self.trajectory.advance(100)


class SmallTrials:
    """A thousand steps of many trials in one call, on a fifth of the entries of a 50 × 50 matrix."""

    params = ([2, 3], [1, 132, 528], ["float32", "float64"])
    param_names = ("depth", "trials", "dtype")
    timeout = 300

    def setup(self, depth, trials, dtype):
        self.problem = dmf.Completion.random((50, 50), rank=3, observed=500)
        loop_on_gpu(self.problem, dmf.Product(depth), dmf.GradientDescent(1e-3), dtype)
        self.time_a_thousand_steps(depth, trials, dtype)

    def time_a_thousand_steps(self, depth, trials, dtype):
        dmf.run_many(
            self.problem, seeds=range(trials), depth=depth, lr=1e-3, stop=dmf.MaxSteps(1000),
            record=dmf.Record(at=()), dtype=dtype, device="cuda",
        )  # fmt: skip
