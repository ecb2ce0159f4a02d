"""How kernels are compiled and cached."""

import contextlib
import functools
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba import types
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.ccallback import CFunc
from numba.core.typing import Signature
from numba.extending import intrinsic

# Reassociation is what lets reductions vectorize.  'nnan' and 'ninf' are left out: with them LLVM may
# assume that no value is ever NaN or infinite, and removes the tests that detect divergence.
FASTMATH = {"reassoc", "contract", "nsz", "arcp"}

#: Whether rows are handled by explicit vectors, which expect the lower half of a number first in memory, or
#: by ordinary loops that the compiler vectorizes.
IS_PLAIN = os.environ.get("FASTDMF_PLAIN_KERNELS", "") not in ("", "0") or sys.byteorder != "little"

#: References are not counted, which would take atomic operations in every step: callers keep arrays alive,
#: and kernels make none.
_OPTIONS = {"fastmath": FASTMATH, "error_model": "numpy", "_nrt": False}

#: A helper, compiled into the entry points that call it.
kernel = numba.njit(nogil=True, **_OPTIONS)

#: A helper that returns a view of memory, which without counted references only the caller itself may make.
inlined = numba.njit(nogil=True, inline="always", **_OPTIONS)


@intrinsic
def compile_apart(typingctx):
    """Called in a kernel, keeps LLVM from inlining that kernel into its callers.

    Inlined into different callers the same sum may be vectorized differently and round differently.  Kept
    apart, it has the same machine code and gives the same bits wherever it is called: when a run is taken
    up again as when it goes on, on one thread as on many.
    """

    def codegen(context, builder, signature, args):
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), codegen


@functools.cache
def source_digest() -> str:
    """SHA-256 over the choice of kernels and every kernel source, in the order of their names."""
    digest = hashlib.sha256(b"plain" if IS_PLAIN else b"")
    here = Path(__file__).parent
    for path in (*sorted(here.glob("*.py")), here.parent / "flow_rules.py"):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


class _StampedByAllSources:
    """Numba stamps a cache entry with the one file that defines the function, so an edit of a helper in
    another file would go unnoticed.  Here the stamp covers all kernel files.
    """

    def get_source_stamp(self):
        return source_digest()


class _CacheImpl(CompileResultCacheImpl):
    _locator_classes = tuple(
        type(locator.__name__, (_StampedByAllSources, locator), {})
        for locator in CompileResultCacheImpl._locator_classes
    )


class _Cache(FunctionCache):
    _impl_class = _CacheImpl

    def __init__(self, function, parallel=False):
        super().__init__(function)
        self._parallel = parallel
        # Numba unpickles an index before it looks at the stamp, which fails if a type of another version of
        # the kernels is gone.  The version it compares before that.
        self._cache_file._version += source_digest()

    def _index_key(self, sig, codegen):
        return *super()._index_key(sig, codegen), self._parallel


def entry_point(function) -> Any:
    """Compile a kernel that backends call: the GIL is released and machine code is cached on disk."""
    dispatcher = kernel(function)
    # Where Numba finds no writable directory to cache in, kernels are compiled in every process.
    with contextlib.suppress(RuntimeError):
        dispatcher._cache = _Cache(function)
    return dispatcher


@functools.cache
def compiled(function: Callable, signature: Signature, parallel: bool = False) -> CFunc:
    """A function compiled once for a signature, to be called by its address; cached on disk as well.

    Its ``prange`` loops run on Numba's threads if ``parallel``, else as plain loops.
    """
    options = {**_OPTIONS, "parallel": parallel}
    callback = CFunc(function, (signature.args, signature.return_type), locals={}, options=options)
    with contextlib.suppress(RuntimeError):
        callback._cache = _Cache(function, parallel)
    callback.compile()
    return callback
