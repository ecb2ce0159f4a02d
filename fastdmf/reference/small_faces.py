"""Faces of the cone of positive semidefinite matrices on which all feasible matrices live.

Where ζ has Z = Σ ζ_i A_i ⪰ 0 and yᵀζ = 0, ⟨Z, X⟩ = 0 for every feasible X, so that X = Q X' Qᵀ for a basis Q
of the kernel of Z (Borwein & Wolkowicz 1981).  A barrier method whose λ runs away has nearly found Z.
"""

import numpy as np

from fastdmf._checks import Array

#: Eigenvalues above this fraction of the largest belong to Z; those of the faces within grow more slowly.
LEADING = 1e-2
#: Z must vanish on Q up to this.
VANISHES = 1e-13
#: Rounds that make Z exact; each squares its error, since Qᵀ Z Q does not feel a small tilt of Q.
ROUNDS = 5


def faces(matrices: Array, values: Array, dual: Array) -> list[tuple[Array, Array]]:
    """Faces from duals that ran away: which problems, and their bases Q (b, n, d), for each d < n found."""
    n = matrices.shape[-1]
    if values.shape[1] < 2 or n < 2 or not len(values):
        return []
    complement = np.linalg.svd(values[:, None, :])[2][:, 1:]  # the ζ with yᵀζ = 0
    spanning = np.einsum("bki,bixy->bkxy", complement, matrices)
    weights = -np.einsum("bki,bi->bk", complement, dual)
    weights /= np.maximum(np.linalg.norm(weights, axis=1, keepdims=True), 1e-300)
    eigenvalues = np.linalg.eigvalsh(np.einsum("bk,bkxy->bxy", weights, spanning))
    kernel = np.count_nonzero(eigenvalues <= LEADING * eigenvalues[:, -1:], axis=1)
    found = []
    for d in sorted(set(kernel) - {0, n}):
        which = np.flatnonzero(kernel == d)
        exposed, basis = _refined(spanning[which], weights[which], d)
        if exposed.any():
            found.append((which[exposed], basis[exposed]))
    return found


def _refined(spanning: Array, weights: Array, d: int) -> tuple[Array, Array]:
    """Whether some Σ w_k B_k ⪰ 0 near the given one has a kernel of dimension d, and its basis (b, n, d)."""
    problems, dimensions = spanning.shape[:2]
    eigenvalues, basis = _kernel(spanning, weights, d)
    for _ in range(ROUNDS):
        blocks = basis.transpose(0, 2, 1)[:, None] @ spanning @ basis[:, None]
        # The combination that is smallest on the basis.
        least = np.linalg.svd(blocks.reshape(problems, dimensions, -1))[0][:, :, -1]
        weights = np.where(np.einsum("bk,bk->b", least, weights)[:, None] < 0.0, -least, least)
        eigenvalues, basis = _kernel(spanning, weights, d)
    leading = eigenvalues[:, -1]
    exposed = (leading > 0.0) & (eigenvalues[:, d] > LEADING * leading)
    exposed &= np.abs(eigenvalues[:, d - 1]) <= VANISHES * leading
    return exposed & (np.abs(eigenvalues[:, 0]) <= VANISHES * leading), basis


def _kernel(spanning: Array, weights: Array, d: int) -> tuple[Array, Array]:
    """The eigenvalues of Σ w_k B_k, and the eigenvectors of the d smallest."""
    eigenvalues, vectors = np.linalg.eigh(np.einsum("bk,bkxy->bxy", weights, spanning))
    return eigenvalues, vectors[:, :, :d]
