"""The arithmetic that a step needs, at the rate it is done, beside what BLAS can do at most."""

import numpy as np

import fastdmf as dmf

from ._peers import Engine, starting_factors
from ._timing import having, seconds_per_step

SIZE, OBSERVED = 100, 2000
#: Large enough that BLAS reaches its peak.
LARGE = 1536


class Efficiency:
    """Gradient steps on 2000 entries of a 100 × 100 matrix at full width, on one thread."""

    params = ([2, 3, 4], ["float32", "float64"])
    param_names = ("depth", "dtype")
    timeout = 120

    def setup(self, depth, dtype):
        problem = dmf.Completion.random((SIZE, SIZE), observed=OBSERVED)
        self.engines = {
            name: Engine(problem, starting_factors(problem, name, depth)) for name in {dtype, "float32"}
        }

    @having(unit="%")
    def track_share_of_blas_peak(self, depth, dtype):
        """In percent of the rate of one large product, measured between the rounds."""
        a = np.random.default_rng(0).standard_normal((LARGE, LARGE)).astype(dtype)
        product = np.empty_like(a)

        def multiply(times):
            for _ in range(times):
                np.matmul(a, a, out=product)

        step, large = seconds_per_step(self.engines[dtype].advance, multiply)
        # Observed entries of the product and both outer gradients, then what is between them as products.
        flops = 6 * OBSERVED * SIZE + 2 * SIZE**3 * (3 * depth - 6)
        return 100 * (flops / step) / (2 * LARGE**3 / large)

    @having(unit="of the rate in float32")
    def track_rate_over_float32(self, depth, dtype):
        if dtype == "float32":
            raise NotImplementedError("float32 is what float64 is compared with")
        double, single = seconds_per_step(*(self.engines[name].advance for name in (dtype, "float32")))
        return single / double
