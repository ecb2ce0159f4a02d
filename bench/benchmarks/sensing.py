"""Gradient steps on dense measurements beside the two BLAS products they consist of: ratios of medians."""

import numpy as np

import fastdmf as dmf
from fastdmf.backends import Leg, bind

from ._timing import seconds_per_step

SHAPE, MEASUREMENTS = (100, 100), 2000


class BesideGemv:
    """2000 measurements of a 100 × 100 matrix in float32: A w and Aᵀ r by BLAS, and whole steps on W.

    ``one``: a trajectory; ``symmetric``: measurements kept as triangles; ``sixteen``: as many trajectories in
    lockstep, of which each is compared with two products of its own.
    """

    params = (["one", "symmetric", "sixteen"],)
    param_names = ("form",)
    unit = "times faster"
    timeout = 300

    def setup(self, form):
        problem = dmf.Sensing.gaussian(SHAPE, 5, MEASUREMENTS, symmetric=form == "symmetric")
        engine = bind(problem, dmf.Product(1), dmf.GradientDescent(1e-3), "float32")
        rng = np.random.default_rng(0)
        self.members = [
            engine.start([rng.standard_normal(SHAPE)]) for _ in range(16 if form == "sixteen" else 1)
        ]
        lockstep = engine.together(self.members)
        self.advance = self.members[0].advance if lockstep is None else self._together(lockstep)
        self.a = np.ascontiguousarray(problem.matrices.reshape(MEASUREMENTS, -1), np.float32)
        self.w, self.r = (rng.standard_normal(k).astype(np.float32) for k in self.a.shape[::-1])

    def _together(self, lockstep):
        return lambda steps: lockstep.advance([Leg(steps)] * len(self.members))

    def _products(self, steps):
        out, back = np.empty_like(self.r), np.empty_like(self.w)
        for _ in range(steps):
            np.dot(self.a, self.w, out=out)
            np.dot(self.r, self.a, out=back)

    def track_times_faster(self, form):
        theirs, ours = seconds_per_step(self._products, self.advance)
        return len(self.members) * theirs / ours
