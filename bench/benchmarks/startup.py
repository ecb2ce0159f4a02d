"""Import and first call, each in a fresh interpreter."""

import os
import statistics
import subprocess
import sys
import tempfile

from ._timing import having

FIRST_RUN = "import fastdmf as dmf; dmf.run(stop=dmf.MaxSteps(1), seed=0)"


class Import:
    unit = "s"
    timeout = 300

    def track_import(self):
        return statistics.median(_seconds("import fastdmf", os.environ) for _ in range(7))


class FirstRun:
    """A run of one step with the defaults."""

    unit = "s"
    timeout = 300

    @having(timeout=300)
    def setup_cache(self):
        with tempfile.TemporaryDirectory() as empty:
            environment = {**os.environ, "NUMBA_CACHE_DIR": empty}
            first = _seconds(FIRST_RUN, environment)
            return first, statistics.median(_seconds(FIRST_RUN, environment) for _ in range(5))

    def track_cold(self, seconds):
        """With nothing compiled yet."""
        return seconds[0]

    def track_warm(self, seconds):
        """With machine code on disk."""
        return seconds[1]


def _seconds(code, environment):
    """Of the processor, from the start of an interpreter to its end."""
    before = os.times()
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system
