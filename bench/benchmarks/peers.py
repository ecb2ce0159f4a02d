"""How many times faster than the usual ways on 100 × 100 matrices, on one thread, by the ratio of medians.

A peer that is not installed is skipped.
"""

import fastdmf as dmf

from ._peers import PEERS, Race


class FullWidth:
    """Products at full width on 2000 entries."""

    params = (list(PEERS), [2, 3, 4], ["float32", "float64"])
    param_names = ("peer", "depth", "dtype")
    unit = "times faster"
    timeout = 300

    def setup(self, peer, depth, dtype):
        self.race = Race(peer, dmf.Completion.random(), dtype, depth)

    def track_times_faster(self, peer, depth, dtype):
        return self.race.ratio()


class Observed:
    """Sparser and denser observations, at depth 2 in float32."""

    params = (["numpy", "jax"], [1000, 5000])
    param_names = ("peer", "observed")
    unit = "times faster"
    timeout = 300

    def setup(self, peer, observed):
        self.race = Race(peer, dmf.Completion.random(observed=observed))

    def track_times_faster(self, peer, observed):
        return self.race.ratio()
