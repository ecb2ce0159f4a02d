"""What a run leaves behind."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from fastdmf import storage
from fastdmf._checks import Array
from fastdmf._version import __version__
from fastdmf.factorizations import Factorization, Product, Symmetric
from fastdmf.stopping import Status

if TYPE_CHECKING:
    import xarray as xr

FORMAT = 2

_SCALARS = ("loss", "test_error", "steps", "evaluations", "time", "seconds", "seed")


@dataclass(frozen=True, eq=False)
class Result:
    """Where a run ended, why, and what was recorded on the way.

    Attributes
    ----------
    factors : list of ndarray
        [W_1, …, W_N] with W = W_N ⋯ W_1, or [U].
    factorization : Product or Symmetric
        What the factors stand for.
    loss : float
        Loss at the end, in the problem's normalization.
    test_error : float
        Root mean square error on what was not observed; NaN if that is unknown.
    steps : int
        Steps taken.
    evaluations : int
        Evaluations of loss and gradient.
    time : float
        Sum of all step sizes.
    seconds : float
        Wall time spent, over all resumptions.
    status : Status
        Why the run ended; ``status.advice`` says what to do about it.
    seed : int or None
        Seed of the start, drawn afresh if none was given; None if the initialization draws nothing.
    settings : mapping of str to str
        Every choice that determined the run, as text, and the ``form`` in which the kernels looked at W:
        sparse or dense products, whichever are faster for the problem.
    records : mapping of str to ndarray
        Everything recorded, one row per recorded step; see :attr:`trace`.
    details : mapping of str to float
        What the optimizer counted or found: of a `GradientFlow`, ``stages``, ``rejected`` steps,
        ``hessian_products``, and with ``check=True`` the ``change`` of the product when the tolerance is a
        tenth.
    """

    factors: list[Array]
    factorization: Factorization
    loss: float
    test_error: float
    steps: int
    evaluations: int
    time: float
    seconds: float
    status: Status
    seed: int | None
    settings: Mapping[str, str]
    records: Mapping[str, Array]
    details: Mapping[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Result {self.factorization}, {self.status} after {self.steps} steps, loss {self.loss:.6g}>"

    @cached_property
    def product(self) -> Array:
        """The matrix W, (n, p), multiplied out by the BLAS of the caller: the same to rounding everywhere."""
        return self.factorization.compose(self.factors)

    @cached_property
    def trace(self) -> xr.Dataset:
        """The recorded metrics as an xarray.Dataset over ``step``, with ``time`` and ``evaluations``."""
        import xarray as xr

        coordinates = {name: ("step", self.records[name]) for name in ("step", "time", "evaluations")}
        metrics = {
            name: (("step", *axes_of(name, x.ndim - 1)), x)
            for name, x in self.records.items()
            if name not in coordinates
        }
        attributes = {**self.settings, "status": str(self.status), "fastdmf": __version__}
        return xr.Dataset(metrics, coords=coordinates, attrs=attributes)

    def summary(self) -> str:
        """A few lines that say what was run, where it ended and why."""
        lines = [
            f"{self.settings['factorization']} on {self.settings['problem'].rsplit(' ', 1)[0]}",
            f"{self.settings['optimizer']}, from {self.settings['init']}, seed {self.seed}, "
            f"{self.settings['dtype']}, by {self.settings['form']}",
            f"status      {self.status}: {self.status.advice}",
            f"loss        {self.loss:.6g}",
            f"test error  {self.test_error:.6g}",
            f"steps       {self.steps}  (time {self.time:.6g}, {self.evaluations} evaluations)",
            f"seconds     {self.seconds:.3g}",
            *(f"{name.replace('_', ' '):<18}{value:.6g}" for name, value in self.details.items()),
        ]
        return "\n".join(lines)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one NPZ file, atomically; :meth:`load` reads it back bit by bit."""
        header, arrays = self.pack()
        storage.write(path, "result", FORMAT, header, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a result; ValueError if the file is something else, or of another format version."""
        return storage.read(path, "result", FORMAT, cls.unpack)

    def pack(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """A header of plain values and named arrays, from which :meth:`unpack` makes the same result."""
        header = {
            "fastdmf": __version__,
            "status": str(self.status),
            "settings": dict(self.settings),
            "details": dict(self.details),
            "symmetric": isinstance(self.factorization, Symmetric),
            **{name: getattr(self, name) for name in _SCALARS},
        }
        factors = {f"factor_{j}": w for j, w in enumerate(self.factors, start=1)}
        return header, factors | {f"record_{name}": x for name, x in self.records.items()}

    @classmethod
    def unpack(cls, header: Mapping[str, Any], arrays: Mapping[str, Array]) -> Self:
        """The result that :meth:`pack` took apart."""
        factors = []
        while (name := f"factor_{len(factors) + 1}") in arrays:
            factors.append(arrays[name])
        return cls(
            factors=factors,
            factorization=_factorization_of(factors, header["symmetric"]),
            status=Status(header["status"]),
            settings=header["settings"],
            details=header["details"],
            records={
                name.removeprefix("record_"): x for name, x in arrays.items() if name.startswith("record_")
            },
            **{name: header[name] for name in _SCALARS},
        )


def axes_of(name: str, ndim: int) -> list[str]:
    """Names of the axes that a metric has beside ``step``."""
    return ["component"] if name == "singular_values" else [f"{name}_{axis}" for axis in range(1, ndim + 1)]


def _factorization_of(factors: list[Array], symmetric: bool) -> Factorization:
    if symmetric:
        return Symmetric(factors[0].shape[1])
    return Product(len(factors), tuple(w.shape[0] for w in factors[:-1]))
