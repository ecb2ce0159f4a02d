"""Raw compute for fastdmf: arrays and scalars in, results into arrays passed in, no policy.

The contract every kernel keeps, whatever the device:

- It allocates nothing that grows with the problem; whoever calls it passes the arrays it writes.
- It validates nothing; the descriptions and backends of :mod:`fastdmf` did.
- NaN and infinity survive: divergence is found by looking at the loss.
- Its result depends on its arguments alone, not on the number of threads.
- It knows nothing of problems, initializers, stopping rules or recording.

``cpu`` holds Numba kernels.  The package is installed as ``fastdmf.kernels`` and must never be
imported as ``kernels``: under two names every kernel would be compiled twice.
"""
