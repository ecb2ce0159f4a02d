"""Benchmarks of fastdmf, for airspeed velocity: one BLAS thread, seeded problems, warm caches."""
