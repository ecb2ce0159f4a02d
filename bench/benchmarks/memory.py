"""Peak memory."""

import fastdmf as dmf


class Wide:
    """Ten thousand entries of a 943 × 1682 matrix at full width, the size of MovieLens 100K."""

    params = ([1, 2, 3],)
    param_names = ("depth",)
    timeout = 300

    def setup(self, depth):
        self.problem = dmf.Completion.random((943, 1682), observed=10_000, keep_truth=False)

    def peakmem_ten_steps(self, depth):
        dmf.run(self.problem, depth=depth, lr=1e-3, stop=dmf.MaxSteps(10), seed=0)
