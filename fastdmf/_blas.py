"""The number of BLAS threads, held while numbers are computed.

Engine and judges share this module on purpose, though they share no numerics: it computes nothing, and an
import contract keeps it so.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import OpenBLASController, ThreadpoolController

_lock = threading.Lock()
_holders = 0
_restore = None


@cache
def _controller() -> ThreadpoolController:
    import scipy.linalg.cython_blas  # noqa: F401  (the BLAS that compiled kernels call must be loaded)

    return ThreadpoolController()


def _take_control() -> None:
    """Since its version 3.8 threadpoolctl heeds only the first thread that set a limit: let it be ours."""
    clear = getattr(OpenBLASController, "clear_controlling_thread", None)
    if clear is not None:
        clear(force=True)


@contextmanager
def blas_threads(threads: int) -> Iterator[None]:
    """Hold every BLAS at ``threads`` threads; the user's setting comes back when the last holder leaves.

    The number is one for the whole process: among runs that overlap, the last to start decides.
    """
    global _holders, _restore
    with _lock:
        _take_control()
        limit = _controller().limit(limits=threads, user_api="blas")
        if _holders == 0:
            _restore = limit
        _holders += 1
    try:
        yield
    finally:
        with _lock:
            _holders -= 1
            if _holders == 0 and _restore is not None:
                _take_control()
                _restore.restore_original_limits()
                _restore = None
                _take_control()
