"""Import and first call, each in a fresh interpreter."""

import os
import statistics
import subprocess
import sys
import tempfile
from time import perf_counter

from ._timing import having

FIRST_RUN = "import fastdmf as dmf; dmf.run(stop=dmf.MaxSteps(1), seed=0)"


class FirstRun:
    """From the start of the interpreter to the end of a run of one step with the defaults."""

    unit = "s"
    timeout = 300

    @having(timeout=300)
    def setup_cache(self):
        with tempfile.TemporaryDirectory() as empty:
            environment = {**os.environ, "NUMBA_CACHE_DIR": empty}
            first = self._seconds(environment)
            return first, statistics.median(self._seconds(environment) for _ in range(5))

    def _seconds(self, environment):
        begin = perf_counter()
        subprocess.run([sys.executable, "-c", FIRST_RUN], env=environment, check=True)
        return perf_counter() - begin

    def track_cold(self, seconds):
        """With nothing compiled yet."""
        return seconds[0]

    def track_warm(self, seconds):
        """With machine code on disk."""
        return seconds[1]


class Import:
    timeout = 300

    def timeraw_import(self):
        return "import fastdmf"
