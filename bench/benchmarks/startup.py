"""Import and first call, each in a fresh interpreter."""

IMPORT = "import fastdmf"
FIRST_RUN = "import fastdmf as dmf; dmf.run(depth=2, lr=1e-3, stop=dmf.MaxSteps(1), seed=0)"


def timeraw_import():
    return IMPORT


def timeraw_first_run_with_warm_cache():
    return FIRST_RUN


timeraw_first_run_with_warm_cache.warmup_time = 1
timeraw_first_run_with_warm_cache.timeout = 120
