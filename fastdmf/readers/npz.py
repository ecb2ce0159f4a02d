"""NPZ files of named arrays."""

from pathlib import Path

from fastdmf._checks import Array
from fastdmf.readers.entries import Entries, Shape
from fastdmf.storage import plain_arrays

_REQUIRED = ("rows", "cols", "values")
_TEST = ("test_rows", "test_cols", "test_values")


def read_npz(path: Path, shape: Shape | None) -> Entries:
    """The arrays ``rows``, ``cols`` and ``values``, and what else is known."""
    arrays = plain_arrays(path, "an NPZ file of plain arrays, as numpy.savez writes it")
    known = (*_REQUIRED, "shape", "truth", *_TEST)
    missing = [name for name in _REQUIRED if name not in arrays]
    unknown = [name for name in arrays if name not in known]
    if missing or unknown:
        fault = f"lacks {', '.join(missing)}" if missing else f"holds the unknown {', '.join(unknown)}"
        raise ValueError(f"{path} {fault}; the arrays of a completion problem are {', '.join(known)}")
    given = [name for name in _TEST if name in arrays]
    if given and len(given) < len(_TEST):
        raise ValueError(f"{path} holds {', '.join(given)} only; test entries need {', '.join(_TEST)}")
    test = (arrays["test_rows"], arrays["test_cols"], arrays["test_values"]) if given else None
    truth = arrays.get("truth")
    own = _stated_shape(path, arrays)
    if own is not None and shape not in (None, own):
        raise ValueError(f"{path} says that its shape is {own}, not {shape}: leave out the shape")
    observed = (arrays["rows"], arrays["cols"], arrays["values"])
    shape = own or shape or (_extent(arrays, "rows"), _extent(arrays, "cols"))
    return Entries(observed, shape, test, truth)


def _stated_shape(path: Path, arrays: dict[str, Array]) -> Shape | None:
    """The shape that the file states, or that its truth has."""
    stated = arrays.get("shape")
    if stated is None:
        truth = arrays.get("truth")
        return (truth.shape[0], truth.shape[1]) if truth is not None and truth.ndim == 2 else None
    if stated.shape != (2,) or stated.dtype.kind not in "iu" or stated.min() < 1:
        raise ValueError(f"{path}: shape must hold two positive integers, not {stated.tolist()!r}")
    return int(stated[0]), int(stated[1])


def _extent(arrays: dict[str, Array], name: str) -> int:
    """One more than the largest index, observed or held out; 1 if there is none to be found."""
    parts = [arrays[key] for key in (name, f"test_{name}") if key in arrays]
    return max((int(x.max()) + 1 for x in parts if x.size and x.dtype.kind in "iu"), default=1)
