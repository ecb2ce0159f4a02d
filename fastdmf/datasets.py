"""Real data, and lists of tiny problems."""

import hashlib
import os
from pathlib import Path

import numpy as np

from fastdmf._checks import count, generator
from fastdmf.problems import Completion
from fastdmf.problems.small import SmallProblems, small_sensing

__all__ = ["SmallProblems", "movielens_100k", "small_sensing"]

_ML_100K_URL = "https://files.grouplens.org/datasets/movielens/ml-100k/u.data"
_ML_100K_SHA256 = "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490"
ML_100K_VARIABLE = "FASTDMF_ML_100K"


def movielens_100k(
    path: str | os.PathLike[str] | None = None,
    observed: int = 10_000,
    seed: int | None = 0,
    *,
    loss: str = "mean",
) -> Completion:
    """MovieLens 100K (Harper & Konstan 2015): ratings 1 … 5 of 1682 films by 943 people.

    Parameters
    ----------
    path : path-like, optional
        The file ``u.data``.  Without it, the environment variable ``FASTDMF_ML_100K`` names the file;
        without that, it is downloaded from the GroupLens site into the user's cache.  Its licence
        forbids redistribution.
    observed : int
        How many of the 100,000 ratings are observed, drawn uniformly; the rest is held out as ``test``.
    seed : int or None
        Seed of the draw.
    loss : {"mean", "half_sum", "half_mean"}
        Normalization of the loss.

    Returns
    -------
    Completion
        943 × 1682, people by films.

    Raises
    ------
    FileNotFoundError
        If the file is not at ``path``, or can neither be found nor downloaded.
    ValueError
        If the file's SHA-256 is not that of MovieLens 100K.
    """
    observed = count("observed", observed)
    if observed > 100_000:
        raise ValueError(f"observed must be at most 100000, not {observed}")
    rng = generator(seed)
    file = _locate(path)
    if hashlib.sha256(file.read_bytes()).hexdigest() != _ML_100K_SHA256:
        raise ValueError(f"{file} is not the u.data of MovieLens 100K: its SHA-256 differs")
    table = np.loadtxt(file, dtype=np.int64, usecols=(0, 1, 2))
    rows, cols, ratings = table[:, 0] - 1, table[:, 1] - 1, table[:, 2].astype(np.float64)
    drawn = rng.permutation(len(table))
    seen, unseen = drawn[:observed], drawn[observed:]
    test = (rows[unseen], cols[unseen], ratings[unseen]) if unseen.size else None
    return Completion(rows[seen], cols[seen], ratings[seen], (943, 1682), test=test, loss=loss)


def _locate(path: str | os.PathLike[str] | None) -> Path:
    given = path or os.environ.get(ML_100K_VARIABLE)
    if given:
        file = Path(given)
        if not file.is_file():
            raise FileNotFoundError(f"there is no file {file}; give the path of MovieLens 100K's u.data")
        return file
    import pooch
    import requests

    try:
        return Path(pooch.retrieve(_ML_100K_URL, known_hash=_ML_100K_SHA256, path=pooch.os_cache("fastdmf")))
    except (requests.RequestException, OSError) as error:
        raise FileNotFoundError(
            f"MovieLens 100K could not be downloaded ({error}); fetch ml-100k from the GroupLens site and "
            f"give the path of its u.data, or set {ML_100K_VARIABLE}"
        ) from error
