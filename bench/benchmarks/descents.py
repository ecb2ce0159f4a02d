"""Whole descents: from a small start to a given loss."""

import fastdmf as dmf


class ToLoss:
    """A loss of 1e-4 on 2000 entries of a 100 × 100 matrix of rank 5, with adaptive rates in float32."""

    params = ([2, 3, 4],)
    param_names = ("depth",)
    timeout = 300
    number, repeat, rounds, warmup_time = 1, 3, 1, 0

    def setup(self, depth):
        self.problem = dmf.Completion.random()
        self._run(depth, dmf.MaxSteps(1))  # compiles

    def _run(self, depth, stop):
        record = dmf.Record(at=())
        return dmf.run(
            self.problem,
            depth=depth,
            optimizer=dmf.GroupRMSprop(),
            stop=stop,
            record=record,
            seed=0,
            dtype="float32",
        )

    def time_to_loss(self, depth):
        result = self._run(depth, dmf.LossBelow(1e-4) | dmf.MaxSteps(200_000))
        assert str(result.status) == "converged", result.status
