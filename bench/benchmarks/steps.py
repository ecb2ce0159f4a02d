"""Optimizer steps, compiled and warm: by depth, optimizer, density, size and dtype."""

import fastdmf as dmf

OPTIMIZERS = {
    "gradient_descent": dmf.GradientDescent(lr=1e-3),
    "momentum": dmf.GradientDescent(lr=1e-3, momentum=0.9),
    "group_rmsprop": dmf.GroupRMSprop(),
    "line_search": dmf.ExactLineSearch(),
}


class _Steps:
    """Many steps from one state."""

    timeout = 300

    def _start(self, problem, factorization, optimizer="gradient_descent", dtype="float64"):
        self.loop = dmf.Loop(problem, factorization, OPTIMIZERS[optimizer], dtype=dtype)
        self.state = self.loop.advance(self.loop.init(seed=0), steps=1)


class Optimizers(_Steps):
    """On 2000 entries of a 100 × 100 matrix."""

    params = ([1, 2, 3, 4], list(OPTIMIZERS))
    param_names = ("depth", "optimizer")

    def setup(self, depth, optimizer):
        self._start(dmf.Completion.random(), dmf.Product(depth), optimizer)

    def time_hundred_steps(self, depth, optimizer):
        self.loop.advance(self.state, steps=100)


class Densities(_Steps):
    """On few and on many entries of a 100 × 100 matrix."""

    params = ([2, 3], [500, 2000, 5000, 9000], ["float64", "float32"])
    param_names = ("depth", "observed", "dtype")

    def setup(self, depth, observed, dtype):
        self._start(dmf.Completion.random(observed=observed), dmf.Product(depth), dtype=dtype)

    def time_hundred_steps(self, depth, observed, dtype):
        self.loop.advance(self.state, steps=100)


class Sizes(_Steps):
    """On a fifth of the entries of a square matrix, at full width."""

    params = ([2, 3], [30, 300, 1000])
    param_names = ("depth", "size")

    def setup(self, depth, size):
        problem = dmf.Completion.random((size, size), observed=size**2 // 5)
        self._start(problem, dmf.Product(depth))

    def time_ten_steps(self, depth, size):
        self.loop.advance(self.state, steps=10)


class SymmetricSensing(_Steps):
    """Of UUᵀ, on 300 Gaussian measurements of a 50 × 50 matrix."""

    params = (["gradient_descent", "line_search"],)
    param_names = ("optimizer",)

    def setup(self, optimizer):
        self._start(dmf.Sensing.gaussian(), dmf.Symmetric(), optimizer)

    def time_hundred_steps(self, optimizer):
        self.loop.advance(self.state, steps=100)


class Recording:
    """What it costs to record."""

    params = ([None, 1000],)
    param_names = ("every",)
    timeout = 300

    def setup(self, every):
        self.problem = dmf.Completion.random()
        self.record = dmf.Record(at=()) if every is None else dmf.Record(every=every)
        self.time_five_thousand_steps(every)

    def time_five_thousand_steps(self, every):
        dmf.run(self.problem, depth=2, lr=1e-3, stop=dmf.MaxSteps(5000), record=self.record, seed=0)
