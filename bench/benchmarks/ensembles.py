"""Many seeds of one problem, in one call."""

import fastdmf as dmf

from ._timing import need_two_processors, seconds_per_step

PROBLEMS = {"completion": dmf.Completion.random, "sensing": dmf.Sensing.gaussian}
SEEDS = range(8)


class EightSeeds:
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

    def track_together_times_faster(self, problem):
        """Than one by one, on one thread."""
        apart, together = seconds_per_step(self._one_by_one, self._together(threads=1), least=0.2)
        return apart / together

    def track_two_threads_times_faster(self, problem):
        """Than one thread."""
        need_two_processors()
        one, two = seconds_per_step(self._together(threads=1), self._together(threads=2), least=0.2)
        return one / two
