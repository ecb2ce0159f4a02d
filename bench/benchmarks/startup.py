"""Import and first call, each in a fresh interpreter."""


class Startup:
    timeout = 120
    warmup_time = 1  # the first call of all fills the cache

    def timeraw_import(self):
        return "import fastdmf"

    def timeraw_first_run(self):
        return "import fastdmf as dmf; dmf.run(lr=1e-3, stop=dmf.MaxSteps(1), seed=0)"
