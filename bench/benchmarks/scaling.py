"""How the cost of a step grows with the observations."""

import numpy as np

import fastdmf as dmf

from ._peers import Engine, starting_factors
from ._timing import having, seconds_per_step


class Observations:
    """From 10³ to 10⁷ entries, a tenth of a square matrix each time, at width 64 and depth 2 in float32."""

    timeout = 300

    @having(timeout=300)
    def setup_cache(self):
        observed = [10**e for e in range(3, 8)]
        return observed, [self._seconds(m) for m in observed]

    def _seconds(self, observed):
        size = round((10 * observed) ** 0.5)
        problem = dmf.Completion.random((size, size), observed=observed, keep_truth=False)
        engine = Engine(problem, starting_factors(problem, "float32", widths=(64,)))
        return seconds_per_step(engine.advance, rounds=5)[0]

    @having(unit="")
    def track_exponent(self, measured):
        """The slope of the line through log seconds over log observations: 1 if cost is linear."""
        observed, seconds = measured
        return float(np.polyfit(np.log(observed), np.log(seconds), 1)[0])

    @having(unit="")
    def track_r_squared(self, measured):
        """How well that line fits."""
        observed, seconds = measured
        return float(np.corrcoef(np.log(observed), np.log(seconds))[0, 1] ** 2)

    @having(unit="")
    def track_spread(self, measured):
        """The dearest observation over the cheapest."""
        observed, seconds = measured
        each = np.array(seconds) / observed
        return float(each.max() / each.min())
