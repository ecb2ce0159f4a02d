"""Optimizer steps, compiled and warm."""

import fastdmf as dmf

OPTIMIZERS = {
    "gradient_descent": dmf.GradientDescent(lr=1e-3),
    "momentum": dmf.GradientDescent(lr=1e-3, momentum=0.9),
    "group_rmsprop": dmf.GroupRMSprop(),
    "line_search": dmf.ExactLineSearch(),
}


class CompletionSteps:
    """A hundred steps on 2000 entries of a 100 × 100 matrix."""

    params = ([1, 2, 3, 4], list(OPTIMIZERS), ["float64", "float32"])
    param_names = ("depth", "optimizer", "dtype")
    timeout = 120

    def setup(self, depth, optimizer, dtype):
        self.loop = dmf.Loop(dmf.Completion.random(), dmf.Product(depth), OPTIMIZERS[optimizer], dtype=dtype)
        self.state = self.loop.advance(self.loop.init(seed=0), steps=1)

    def time_hundred_steps(self, depth, optimizer, dtype):
        self.loop.advance(self.state, steps=100)


class SymmetricSensingSteps:
    """A hundred steps of UUᵀ on 300 Gaussian measurements of a 50 × 50 matrix."""

    params = (["gradient_descent", "line_search"],)
    param_names = ("optimizer",)
    timeout = 120

    def setup(self, optimizer):
        self.loop = dmf.Loop(dmf.Sensing.gaussian(), dmf.Symmetric(), OPTIMIZERS[optimizer])
        self.state = self.loop.advance(self.loop.init(seed=0), steps=1)

    def time_hundred_steps(self, optimizer):
        self.loop.advance(self.state, steps=100)


class Recording:
    """What it costs to record."""

    params = ([None, 1000],)
    param_names = ("every",)
    timeout = 120

    def setup(self, every):
        self.problem = dmf.Completion.random()
        self.record = dmf.Record(at=()) if every is None else dmf.Record(every=every)
        self.time_five_thousand_steps(every)

    def time_five_thousand_steps(self, every):
        dmf.run(self.problem, depth=2, lr=1e-3, stop=dmf.MaxSteps(5000), record=self.record, seed=0)
