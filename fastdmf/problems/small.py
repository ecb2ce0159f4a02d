"""Tiny sensing problems with integer measurements: all of them, up to symmetry, or a sample."""

import itertools
import math
from typing import NamedTuple

import numpy as np

from fastdmf._checks import Array, count, generator

#: Widest matrices whose patterns are listed: there are 3^(n(n+1)/2) of them.
WIDEST = 3
#: Sets of measurements that are gone through one by one; of more a sample is drawn.
MOST_SETS = 1_000_000


class SmallProblems(NamedTuple):
    """B problems ⟨A_i, X⟩ = y_i with a planted solution.

    ``matrices`` (B, m, n, n) holds A_i, ``values`` (B, m) y_i, and ``planted`` (B, n, n) is x xᵀ.
    """

    matrices: Array
    values: Array
    planted: Array


def small_sensing(
    measurements: int = 2, size: int = 3, *, limit: int | None = None, seed: int | None = 0
) -> SmallProblems:
    """List tiny symmetric sensing problems with entries −1, 0, 1, up to symmetry.

    A_i are symmetric n × n matrices and the planted matrix is x xᵀ, x ≠ 0, all with entries in {−1, 0, 1}.
    Of problems that differ by a signed permutation of the coordinates, by the signs of A_i or their order,
    one is listed: flows from rotationally invariant starts end alike, in law.  Left out are problems with
    dependent A_i, which have fewer measurements than it seems, and with y = 0, whose solution is X = 0.

    Parameters
    ----------
    measurements : int
        Their number m, at most n(n + 1)/2.
    size : int
        n, at most 3.
    limit : int, optional
        List no more than so many of them, drawn uniformly without replacement.
    seed : int or None
        Seed of the sample; None draws fresh entropy.

    Returns
    -------
    SmallProblems
        Arrays over the problems, in a fixed order.

    Raises
    ------
    ValueError, TypeError
        For numbers out of range, and for lists that would be too long: give a ``limit``, or a lower one.

    Notes
    -----
    After Gunasekar et al. (2017), figure 4.  For n = 3 there are 218 problems with m = 1, 36,030 with
    m = 2, and some four million with m = 3.

    Examples
    --------
    >>> import fastdmf as dmf
    >>> problems = dmf.datasets.small_sensing(2, size=2)
    >>> problems.matrices.shape, problems.values.shape, problems.planted.shape
    ((87, 2, 2, 2), (87, 2), (87, 2, 2))
    """
    m, n = count("measurements", measurements), count("size", size)
    if n > WIDEST:
        raise ValueError(f"size must be at most {WIDEST}, not {size!r}")
    if m > n * (n + 1) // 2:
        raise ValueError(f"there are no {m} independent measurements of symmetric {n} × {n} matrices")
    most = math.inf if limit is None else count("limit", limit)
    rng = generator(seed)
    patterns = _patterns(n)
    total = math.comb(len(patterns), m)
    if total <= MOST_SETS:
        found = _listed(patterns, np.array(list(itertools.combinations(range(len(patterns)), m))))
    elif most > MOST_SETS // 8:
        raise ValueError(
            f"of {total} sets of {m} measurements only a sample can be drawn: limit must be at most "
            f"{MOST_SETS // 8}, not {limit!r}"
        )
    else:
        found = _sampled(patterns, m, int(most), rng)
    if len(found.values) <= most:
        return found
    kept = np.sort(rng.choice(len(found.values), int(most), replace=False))
    return SmallProblems(*(array[kept] for array in found))


def _patterns(n: int) -> Array:
    """Symmetric matrices with entries −1, 0, 1, one of A and −A each, in the order of their codes."""
    upper = np.triu_indices(n)
    entries = np.array(list(itertools.product((-1, 0, 1), repeat=upper[0].size)))
    matrices = np.zeros((len(entries), n, n), np.int64)
    matrices[:, upper[0], upper[1]] = matrices[:, upper[1], upper[0]] = entries
    return matrices[_codes(matrices) > 0]


def _codes(matrices: Array) -> Array:
    """The upper triangle as the digits of a number to the base 3; −A has the opposite number."""
    upper = np.triu_indices(matrices.shape[-1])
    return matrices[..., upper[0], upper[1]] @ 3 ** np.arange(upper[0].size)[::-1]


def _sampled(patterns: Array, m: int, least: int, rng: np.random.Generator) -> SmallProblems:
    """The problems, ``least`` or more, with sets of m measurements drawn uniformly."""
    sets = np.empty((0, m), np.int64)
    while True:
        drawn = np.sort(rng.integers(len(patterns), size=(4 * least, m)), axis=1)
        distinct = drawn[(np.diff(drawn, axis=1) > 0).all(axis=1)]
        sets = np.unique(np.concatenate([sets, distinct]), axis=0)
        found = _listed(patterns, sets)
        if len(found.values) >= least:
            return found


def _listed(patterns: Array, sets: Array) -> SmallProblems:
    """The problems with these sets of measurements that represent their orbit, y ≠ 0 and A_i independent."""
    n = patterns.shape[1]
    flat = patterns.reshape(len(patterns), -1)
    sets = sets[np.linalg.matrix_rank(flat[sets]) == sets.shape[1]]
    parts = []
    for ones in range(1, n + 1):  # every x is a signed permutation of one of these
        planted = np.outer(*2 * (np.arange(n) < ones,)).astype(np.int64)
        seen = sets[_is_first(sets, _stabilizer(patterns, planted))]
        values = (flat @ planted.ravel())[seen]
        seen, values = seen[values.any(axis=1)], values[values.any(axis=1)]
        parts.append((patterns[seen], values, np.broadcast_to(planted, (len(seen), n, n))))
    return SmallProblems(*(np.concatenate(arrays).astype(np.float64) for arrays in zip(*parts, strict=True)))


def _stabilizer(patterns: Array, planted: Array) -> Array:
    """How the signed permutations P with P X Pᵀ = X, for the planted X, map ± patterns; (g, patterns)."""
    n = len(planted)
    codes, maps = _codes(patterns), []
    for places in itertools.permutations(range(n)):
        for signs in itertools.product((1, -1), repeat=n):
            p = np.eye(n, dtype=np.int64)[list(places)] * signs
            if np.array_equal(p @ planted @ p.T, planted):
                maps.append(np.searchsorted(codes, np.abs(_codes(p @ patterns @ p.T))))
    return np.array(maps)


def _is_first(sets: Array, maps: Array) -> Array:
    """Which sets of patterns come first among their images under the maps, in lexicographic order."""
    digits = maps.shape[1] ** np.arange(sets.shape[1])[::-1]
    own = sets @ digits
    first = np.ones(len(sets), bool)
    for images in maps:
        first &= np.sort(images[sets], axis=1) @ digits >= own
    return first
