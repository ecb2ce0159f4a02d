"""The arithmetic that a step needs, at the rate it is done, beside what BLAS can do at most."""

import numpy as np

import fastdmf as dmf

from ._peers import Engine, starting_factors
from ._timing import seconds_per_step

SIZE, OBSERVED = 100, 2000
#: Large enough that BLAS reaches its peak.
LARGE = 1536


class Efficiency:
    """Gradient steps on 2000 entries of a 100 × 100 matrix at full width, on one thread."""

    params = ([2, 3, 4], ["float32", "float64"])
    param_names = ("depth", "dtype")
    unit = "%"
    timeout = 300

    def setup(self, depth, dtype):
        self.engine = _engine(depth, dtype)

    def track_share_of_blas_peak(self, depth, dtype):
        """Of the rate of one large product, measured between the rounds."""
        a = np.random.default_rng(0).standard_normal((LARGE, LARGE)).astype(dtype)
        product = np.empty_like(a)

        def multiply(times):
            for _ in range(times):
                np.matmul(a, a, out=product)

        step, large = seconds_per_step(self.engine.advance, multiply)
        # Observed entries of the product and both outer gradients, then what is between them as products.
        flops = 6 * OBSERVED * SIZE + 2 * SIZE**3 * (3 * depth - 6)
        return 100 * (flops / step) / (2 * LARGE**3 / large)


class Float64:
    """The same steps in float64, beside those in float32."""

    params = ([2, 3, 4],)
    param_names = ("depth",)
    unit = "steps for one in float32"
    timeout = 300

    def setup(self, depth):
        self.single, self.double = _engine(depth, "float32"), _engine(depth, "float64")

    def track_rate(self, depth):
        single, double = seconds_per_step(self.single.advance, self.double.advance)
        return single / double


def _engine(depth, dtype):
    problem = dmf.Completion.random((SIZE, SIZE), observed=OBSERVED)
    return Engine(problem, starting_factors(problem, dtype, depth))
