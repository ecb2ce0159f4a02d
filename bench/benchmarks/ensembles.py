"""Many seeds of one problem, in one call."""

from time import perf_counter

import fastdmf as dmf

from ._timing import need_two_processors, seconds_per_step

PROBLEMS = {"completion": dmf.Completion.random, "sensing": dmf.Sensing.gaussian}
SEEDS = range(8)


class _EightSeeds:
    """A step of eight runs at depth 2."""

    params = (list(PROBLEMS),)
    param_names = ("problem",)
    unit = "times faster"
    timeout = 300

    def setup(self, problem):
        if not hasattr(dmf, "run_many"):
            raise NotImplementedError("this version of fastdmf has no run_many")
        self.run_many = dmf.run_many  # pyright: ignore[reportAttributeAccessIssue]
        self.problem = PROBLEMS[problem]()

    def _together(self, threads):
        return lambda steps: self.run_many(self.problem, seeds=SEEDS, threads=threads, **self._choices(steps))

    def _one_by_one(self, steps):
        for seed in SEEDS:
            dmf.run(self.problem, seed=seed, **self._choices(steps))

    def _choices(self, steps):
        return {"depth": 2, "lr": 1e-3, "stop": dmf.MaxSteps(steps), "record": dmf.Record(at=())}


class Together(_EightSeeds):
    """In one call, against one by one."""

    def track_times_faster(self, problem):
        apart, together = seconds_per_step(self._one_by_one, self._together(threads=1), least=0.2)
        return apart / together


class Threads(_EightSeeds):
    """On two threads, against one."""

    def setup(self, problem):
        need_two_processors()
        super().setup(problem)

    def track_times_faster(self, problem):
        together = self._together(threads=1), self._together(threads=2)
        one, two = seconds_per_step(*together, least=0.2, clock=perf_counter)
        return one / two
