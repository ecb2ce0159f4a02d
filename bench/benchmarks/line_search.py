"""What an exact line search costs."""

import fastdmf as dmf

from ._timing import seconds_per_step


class LineSearch:
    """Beyond a gradient step, in gradient steps: on 2000 entries of a 100 × 100 matrix at full width."""

    params = ([2, 3, 4], ["float32", "float64"])
    param_names = ("depth", "dtype")
    unit = "gradient steps"
    timeout = 300

    def setup(self, depth, dtype):
        problem = dmf.Completion.random()
        self.advances = [
            self._from_one_state(dmf.Loop(problem, dmf.Product(depth), optimizer, dtype=dtype))
            for optimizer in (dmf.GradientDescent(lr=0.5), dmf.ExactLineSearch())
        ]

    def _from_one_state(self, loop):
        # Always the same steps: a search that has come to rest does less.
        state = loop.init(dmf.Gaussian(product_scale=1.0), seed=0)
        return lambda steps: loop.advance(state, steps)

    def track_extra(self, depth, dtype):
        plain, searched = seconds_per_step(*self.advances, least=0.05)
        return searched / plain - 1
