"""An instance in which deep factorizations do not minimize any Schatten quasi-norm."""

from dataclasses import dataclass

import numpy as np

from fastdmf._checks import Array, count
from fastdmf.problems import Sensing


@dataclass(frozen=True, eq=False)
class Proposition1:
    """The instance of :func:`proposition_1`.

    Attributes
    ----------
    problem : Sensing
        A_1 = diag(1, 0, ½, …, ½), A_2 = diag(0, 1, ¼, …, ¼), y = (1, 1).
    eigenvalues : (2, d) ndarray
        The diagonals a of A_1 and A_2.
    limit : (d, d) ndarray
        W = diag(1, 1, 0, …, 0), the limit for α → 0 and the only matrix X ⪰ 0 of minimum trace.
    dual : (2,) ndarray
        λ = (1, 1), which proves it: aᵀλ ≤ 1 and yᵀλ = tr W.
    slack : (d,) ndarray
        1 − aᵀλ = (0, 0, ¼, …, ¼).
    """

    problem: Sensing
    eigenvalues: Array
    limit: Array
    dual: Array
    slack: Array

    def perturbed(self, size: float) -> Array:
        """W + ε (e_1e_2ᵀ + e_2e_1ᵀ), (d, d), which has the same measurements for every ε = ``size``.

        Its singular values are 1 + ε, |1 − ε| and 0, so that for 0 < ε ≤ 1 and every 0 < p < 1
        Σσ^p = (1 + ε)^p + (1 − ε)^p is below that of W, which is 2, and equal to it at p = 1.
        """
        matrix = self.limit.copy()
        matrix[0, 1] = matrix[1, 0] = size
        return matrix


def proposition_1(d: int) -> Proposition1:
    """Commuting measurements whose limit has more than the least Schatten-p quasi-norm for every 0 < p < 1.

    Parameters
    ----------
    d : int
        Size of the matrices, at least 3.

    Returns
    -------
    Proposition1
        The instance, the certificate of its minimum trace, and matrices of smaller quasi-norms.

    Raises
    ------
    ValueError, TypeError
        For d < 3.

    Notes
    -----
    Arora et al. (2019), Proposition 1: the limit of every depth, from αI as α → 0, minimizes the nuclear
    norm, hence not the quasi-norms to which depth had been thought to lead.

    Examples
    --------
    >>> import fastdmf as dmf
    >>> instance = dmf.theory.proposition_1(4)
    >>> better = instance.perturbed(0.1)
    >>> dmf.metrics.schatten(better, 0.5) < dmf.metrics.schatten(instance.limit, 0.5)
    True
    """
    d = count("d", d, least=3)
    a = np.array([[1.0, 0.0] + [0.5] * (d - 2), [0.0, 1.0] + [0.25] * (d - 2)])
    dual = np.ones(2)
    limit = np.diag((np.arange(d) < 2).astype(float))
    problem = Sensing(np.einsum("mk,kl->mkl", a, np.eye(d)), np.ones(2))
    return Proposition1(problem, a, limit, dual, 1.0 - a.T @ dual)
