"""The verbs of factorizations, supports and operators, each compiled once and called by its address.

A run combines a kind of factorization, of support, of operator and of optimizer.  Compiled into one
another, every combination would be compiled for itself.  So a kind is a NamedTuple of what it works on; a
function that implements one of its verbs is compiled for that type alone; and callers hold the addresses:
a :class:`Model`, :class:`Support` or :class:`Operator` stands for whatever kind.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastdmf.kernels.cpu.compilation import compiled
from fastdmf.kernels.cpu.tables import Flags, Place, Table

#: The base of a sum that has none.
NOWHERE = Place(0, 0, 0, 0, 0)


class Model(NamedTuple):
    """A factorization: addresses of its verbs (0: not needed) and of its memory.

    ``w`` (S,) is W on the support, then the gradient there.
    """

    compose: int
    pull_back: int
    step_back: int
    expand: int
    push: int
    curve: int
    at: int
    w: np.ndarray


class Support(NamedTuple):
    """The entries of W that are looked at: addresses of the verbs and of what describes them."""

    look: int
    look_along: int
    pull: int
    pull_tied: int
    at: int


class Operator(NamedTuple):
    """The measurement of W on the support: addresses of the verbs and of what describes it.

    The loss is (``scale`` / 2) Σ r²; ``r`` (m,) is the scaled residual, ``work`` scratch memory.
    """

    measure: int
    residual: int
    residuals: int
    at: int
    scale: float
    r: np.ndarray
    work: np.ndarray


_PLACE = numba.typeof(NOWHERE)
#: Types of arguments: the handle of a support, a table, flags.
SUPPORT, TABLE, FLAGS = map(numba.typeof, (Support(0, 0, 0, 0, 0), Table(0, 0), Flags(0, 0)))
_LINES = types.int64[::1]
_FLAG, _NUMBER, _REAL = types.boolean, types.int64, types.float64

#: What each verb returns and takes, after the kind itself, for factors with elements of the given type.
_signatures: dict[str, Callable[[Any], Any]] = {}
_bodies: dict[tuple[str, type], Callable] = {}


def implements(verb: str, kind: type) -> Callable:
    """Make a function the implementation of a verb for a kind, of which it is given a pointer, ``at``."""

    def register(body: Callable) -> Callable:
        _bodies[verb, kind] = body
        return body

    return register


class Bound:
    """Something of a kind, laid out in memory as its verbs expect it.

    Parameters
    ----------
    kind
        A NamedTuple of numbers and arrays; these are kept alive.
    dtype
        Element type of the factors.
    parallel
        Whether loops over blocks run on Numba's threads.
    """

    def __init__(self, kind: Any, dtype: np.dtype, parallel: bool = False) -> None:
        self._kind, self._dtype, self._parallel = kind, numba.from_dtype(dtype), parallel
        self._memory = np.array(_words(kind), dtype=np.int64)
        self.at: int = self._memory.ctypes.data

    def address_if_any(self, verb: str) -> int:
        """Where the machine code of a verb lies; 0 if this kind has none."""
        return self.address(verb) if (verb, type(self._kind)) in _bodies else 0

    def address(self, verb: str) -> int:
        """Where the machine code of a verb lies."""
        key = verb, type(self._kind), *map(_look_of, self._kind), self._dtype, self._parallel
        if key not in _addresses:
            kind_type, body = numba.typeof(self._kind), _bodies[verb, type(self._kind)]
            wanted = _signatures[verb](self._dtype)
            signature = wanted.return_type(types.CPointer(kind_type), *wanted.args)
            has_parallel_loops = "prange" in body.__code__.co_names
            _addresses[key] = compiled(body, signature, self._parallel and has_parallel_loops).address
        return _addresses[key]


#: Machine code of verbs, by what tells them apart.
_addresses: dict[Any, int] = {}


def _look_of(value: Any) -> Any:
    """What of a value decides its type in Numba, which takes longer to find."""
    if isinstance(value, tuple):
        return type(value), *map(_look_of, value)
    if isinstance(value, np.ndarray):
        return value.dtype, value.ndim, value.flags.num
    return type(value)


def _words(value: Any) -> list[int]:
    """What Numba holds in memory for a value, in words of 8 bytes; of an array, without counting references.

    An array is (counter, owner, elements, bytes of an element, address, *shape, *strides).
    """
    if isinstance(value, tuple):
        return [word for part in value for word in _words(part)]
    if isinstance(value, np.ndarray):
        return [0, 0, value.size, value.itemsize, value.ctypes.data, *value.shape, *value.strides]
    return [int(np.array(value, np.float64 if isinstance(value, float) else np.int64).view(np.int64))]


def _element_type(handle: Any, arguments: Any) -> Any:
    """The type of the elements of factors, from the types of what a verb is called with."""
    kinds = [*handle.types, *arguments]
    return next(t.dtype for t in kinds if isinstance(t, types.Array) and isinstance(t.dtype, types.Float))


def declare(verb: str, signature: Callable[[Any], Any]) -> Any:
    """A verb: in kernels, a function of a handle that jumps to the address there.

    ``signature`` gives, for the type of the factors' elements, what it returns and takes after the handle.
    """
    _signatures[verb] = signature

    def call(typingctx, handle, *arguments):
        wanted = _signatures[verb](_element_type(handle, arguments))

        def codegen(context, builder, signature, values):
            fields = signature.args[0].fields
            address = builder.extract_value(values[0], fields.index(verb))
            at = builder.extract_value(values[0], fields.index("at"))
            given = cgutils.unpack_tuple(builder, values[1], len(arguments))
            passed = [
                context.cast(builder, value, kind, to)
                for value, kind, to in zip(given, arguments, wanted.args, strict=True)
            ]
            pointer = ir.IntType(8).as_pointer()
            kinds = [pointer, *map(context.get_value_type, wanted.args)]
            function = ir.FunctionType(context.get_value_type(wanted.return_type), kinds)
            code = builder.inttoptr(address, function.as_pointer())
            return builder.call(code, [builder.inttoptr(at, pointer), *passed])

        return wanted.return_type(handle, types.StarArgTuple.from_types(arguments)), codegen

    return intrinsic(call)


# Of a factorization.

#: compose(model, support, factors, w, cancel): the entries of W on the support, written to ``w``.
compose = declare("compose", lambda t: types.void(SUPPORT, TABLE, t[::1], FLAGS))

#: pull_back(model, support, factors, grads, cancel): the gradient in the factors, from that on the support in
#: ``model.w``, where W was last composed.
pull_back = declare("pull_back", lambda t: types.void(SUPPORT, TABLE, TABLE, FLAGS))

#: step_back(model, support, factors, base, step, moved, cancel): moved = base − step · gradient without
#: writing out the gradient at the factors; not there (0) where it has to be.  ``base`` may be ``moved``.
step_back = declare("step_back", lambda t: types.void(SUPPORT, TABLE, TABLE, _REAL, TABLE, FLAGS))

#: expand(model, support, factors, grads, powers, entries, cancel): entries[t − 1] = the coefficient ξᵗ of W
#: on the support, t ≥ 1, as every factor moves by ξ along its gradient; returns the degree.
expand = declare("expand", lambda t: _NUMBER(SUPPORT, TABLE, TABLE, TABLE, t[:, ::1], FLAGS))

#: push(model, support, factors, direction, w_dot, cancel): the derivative of W on the support as the factors
#: move along a direction, where W was last composed.
push = declare("push", lambda t: types.void(SUPPORT, TABLE, TABLE, t[::1], FLAGS))

#: curve(model, support, factors, direction, w_dot, out, cancel): the derivative of the gradient in the
#: factors as they move along a direction and the gradient on the support, ``model.w``, changes by ``w_dot``.
curve = declare("curve", lambda t: types.void(SUPPORT, TABLE, TABLE, t[::1], TABLE, FLAGS))


# Of a support.

#: look(support, left, right, w, is_added, cancel): w = [w +] the entries of L Rᵀ on the support, for the
#: places of L and R.
look = declare("look", lambda t: types.void(_PLACE, _PLACE, t[::1], _FLAG, FLAGS))

#: look_along(support, left, right, left_move, right_move, linear, quadratic, cancel): the coefficients of ξ
#: and ξ² of (L + ξ L')(R + ξ R')ᵀ on the support; moves are laid out as what they move.
look_along = declare(
    "look_along", lambda t: types.void(_PLACE, _PLACE, _PLACE, _PLACE, t[::1], t[::1], FLAGS)
)

#: pull(support, z, left, right, scale, base_left, base_right, out_left, out_right, cancel):
#: out_left = base + scale Z R and out_right = base + scale Zᵀ L, for Z with the entries z on the support;
#: a base is a place, or :data:`NOWHERE` for zero.
pull = declare(
    "pull",
    lambda t: types.void(t[::1], _PLACE, _PLACE, _REAL, _PLACE, _PLACE, _PLACE, _PLACE, FLAGS),
)

#: pull_tied(support, z, factor, scale, base, out, cancel): out = base + scale (Z + Zᵀ) U, for W = UUᵀ; not
#: there (0) where :data:`pull` with U on both sides, the second sum added to the first, is as good.
pull_tied = declare("pull_tied", lambda t: types.void(t[::1], _PLACE, _REAL, _PLACE, _PLACE, FLAGS))


# Of an operator.

#: measure(operator, w, out, work, cancel): out = A(w), for w on the support.
measure = declare("measure", lambda t: types.void(t[::1], t[::1], t[::1], FLAGS))

#: residual(operator, w, r, work, cancel): replace w by c A*(r), store c r with r = A(w) − y, and return the
#: loss (c/2) Σ r².
residual = declare("residual", lambda t: _REAL(t[::1], t[::1], t[::1], FLAGS))

#: residuals(operator, w, r, work, cancel): :data:`residual`, but for the loss, of several points: w, r and
#: work are arrays of their addresses.
residuals = declare("residuals", lambda t: types.void(_LINES, _LINES, _LINES, FLAGS))


def is_a(numba_type: Any, kind: type) -> bool:
    """Whether a Numba type is that of the NamedTuple class ``kind``."""
    return isinstance(numba_type, types.BaseNamedTuple) and numba_type.instance_class is kind
