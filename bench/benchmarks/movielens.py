"""MovieLens 100K, 943 × 1682, at full width and depth 2 in float32.

The environment variable FASTDMF_ML_100K names its ``u.data``; without it these are skipped.
"""

import os

import fastdmf as dmf

from ._peers import Race


class MovieLens:
    params = (["numpy", "torch_sparse"], [10_000, 100_000])
    param_names = ("peer", "ratings")
    unit = "times faster"
    timeout = 300

    def setup(self, peer, ratings):
        if not os.environ.get("FASTDMF_ML_100K"):
            raise NotImplementedError("FASTDMF_ML_100K does not name the u.data of MovieLens 100K")
        self.race = Race(peer, dmf.datasets.movielens_100k(observed=ratings))

    def track_times_faster(self, peer, ratings):
        return self.race.ratio()
