"""Ten million entries of a 100,000 × 10,000 matrix, at width 64 and depth 2 in float32."""

from time import perf_counter

import fastdmf as dmf

from ._peers import Engine, Race, starting_factors
from ._timing import having, need_two_processors, seconds_per_step

WIDTHS = (64,)


def large_problem() -> dmf.Completion:
    return dmf.Completion.random((100_000, 10_000), observed=10_000_000, keep_truth=False)


class TorchSparse:
    unit = "times faster"
    timeout = 600

    def setup(self):
        self.race = Race("torch_sparse", large_problem(), widths=WIDTHS)

    def track_times_faster(self):
        return self.race.ratio(rounds=5)


class Threads:
    """Two threads against one."""

    unit = "times faster"
    timeout = 600

    def setup(self):
        need_two_processors()
        problem = large_problem()
        start = starting_factors(problem, "float32", widths=WIDTHS)
        self.one, self.two = Engine(problem, start, threads=1), Engine(problem, start, threads=2)

    def track_times_faster(self):
        advances = self.one.advance, self.two.advance
        one, two = seconds_per_step(*advances, rounds=5, clock=perf_counter)
        return one / two


class Step:
    timeout = 600

    def setup(self):
        problem = large_problem()
        self.engine = Engine(problem, starting_factors(problem, "float32", widths=WIDTHS))

    @having(unit="s")
    def track_seconds(self):
        return seconds_per_step(self.engine.advance, rounds=5)[0]

    def peakmem_ten_steps(self):
        self.engine.advance(10)
