"""Benchmarks of fastdmf, for airspeed velocity: one BLAS thread, seeded problems, warm caches."""

import os

# Before NumPy, PyTorch or JAX is loaded: they read these once.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
