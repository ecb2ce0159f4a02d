"""The definitions of the papers in plain NumPy: slow, dense, float64, and sharing no code with the engine.

[G] Gunasekar et al. (2017), Implicit Regularization in Matrix Factorization.
[A] Arora et al. (2019), Implicit Regularization in Deep Matrix Factorization, and its released code.

An objective is a function of the list of factors.  `trajectory` moves the factors by a rule, which sees the
objective, the factors and the gradients, and returns direction and length of the next step.
"""

from dataclasses import dataclass, field

import numpy as np

#: loss = weight · Σ r²
WEIGHTS = {"mean": lambda m: 1 / m, "half_sum": lambda m: 1 / 2, "half_mean": lambda m: 1 / (2 * m)}


@dataclass
class Entries:
    """A(W) = (W[i, j]) over the observed (i, j); A*(z) puts z there and zeros elsewhere."""

    rows: np.ndarray
    cols: np.ndarray
    shape: tuple[int, int]

    def measure(self, w):
        return w[self.rows, self.cols]

    def adjoint(self, z):
        total = np.zeros(self.shape)
        total[self.rows, self.cols] = z
        return total


@dataclass
class Inner:
    """A(W) = (⟨A_i, W⟩)_i and A*(z) = Σ_i z_i A_i for matrices A_i of shape (m, n, p)."""

    matrices: np.ndarray

    def measure(self, w):
        return np.einsum("mij,ij->m", self.matrices, w)

    def adjoint(self, z):
        return np.einsum("m,mij->ij", z, self.matrices)


@dataclass
class Objective:
    """φ(W_1, …, W_N) = ℓ(W_N … W_1) [A], or f(U) = ℓ(UUᵀ) [G] if symmetric."""

    operator: Entries | Inner
    values: np.ndarray
    normalization: str = "mean"
    symmetric: bool = False

    @property
    def weight(self):
        return WEIGHTS[self.normalization](len(self.values))

    def chain(self, factors):
        """The matrices whose product W is, from left to right."""
        return [factors[0], factors[0].T] if self.symmetric else list(factors)[::-1]

    def product(self, factors):
        w = np.eye(self.chain(factors)[0].shape[0])
        for matrix in self.chain(factors):
            w = w @ matrix
        return w

    def loss_of(self, w):
        r = self.operator.measure(w) - self.values  # r = A(W) − y
        return self.weight * np.sum(r**2)

    def gradient_of(self, w):
        r = self.operator.measure(w) - self.values
        return 2 * self.weight * self.operator.adjoint(r)  # ∇ℓ(W) = 2 weight A*(A(W) − y)

    def loss(self, factors):
        return self.loss_of(self.product(factors))

    def gradients(self, factors):
        nabla = self.gradient_of(self.product(factors))
        if self.symmetric:
            (u,) = factors
            return [(nabla + nabla.T) @ u]  # ∇f(U) = (∇ℓ + ∇ℓᵀ) U
        gradients = []
        for j in range(len(factors)):
            above = np.eye(nabla.shape[0])  # W_N … W_{j+1}
            for matrix in factors[:j:-1]:
                above = above @ matrix
            below = np.eye(factors[j].shape[1])  # W_{j−1} … W_1
            for matrix in factors[:j][::-1]:
                below = below @ matrix
            gradients.append(above.T @ nabla @ below.T)  # ∂φ/∂W_j = (W_N…W_{j+1})ᵀ ∇ℓ(W) (W_{j−1}…W_1)ᵀ
        return gradients

    def loss_along(self, factors, gradients):
        """Coefficients c_0, c_1, …, c_2N of η ↦ φ(W_1 − η G_1, …, W_N − η G_N), a polynomial of degree 2N."""
        w = [np.eye(self.chain(factors)[0].shape[0])]  # w[t] multiplies ηᵗ
        for matrix, slope in zip(self.chain(factors), self.chain(gradients), strict=True):
            stay = [c @ matrix for c in w] + [0]
            move = [0] + [c @ -slope for c in w]
            w = [a + b for a, b in zip(stay, move, strict=True)]
        r = np.array([self.operator.measure(c) for c in w])
        r[0] -= self.values
        return self.weight * sum(np.convolve(ri, ri) for ri in r.T)


def objective_of(problem, symmetric=False):
    """The objective of a fastdmf problem, written out from the numbers it was given."""
    if hasattr(problem, "rows"):
        operator = Entries(problem.rows, problem.cols, problem.shape)
    elif problem.is_sparse:
        operator = Inner(problem.matrices.toarray().reshape(-1, *problem.shape))
    else:
        operator = Inner(problem.matrices)
    return Objective(operator, problem.values, problem.loss, symmetric)


def minimizing_step(coefficients, max_step=np.inf):
    """The global minimizer over (0, max_step] of the polynomial Σ_d c_d ηᵈ, 0 if it never falls."""
    if coefficients[0] == 0 or not np.any(coefficients[1:]):
        return 0.0  # the fit is exact, or the gradient vanishes
    scale = (coefficients[0] / coefficients[-1]) ** (1 / (len(coefficients) - 1))  # η = scale · x
    loss = np.polynomial.Polynomial(coefficients * scale ** np.arange(len(coefficients)) / coefficients[0])
    slope, curvature = loss.deriv(), loss.deriv(2)
    roots = np.roots(slope.coef[::-1])
    x = roots[np.isreal(roots)].real
    for _ in range(5):  # Newton: np.roots alone is accurate only relative to the largest root
        x = x - slope(x) / curvature(x)
    candidates = [c for c in x if 0 < c * scale < max_step]
    if np.isfinite(max_step):
        candidates.append(max_step / scale)
    best = min(candidates, key=loss, default=0.0)
    return best * scale if loss(best) < loss(0.0) else 0.0


@dataclass
class GradientDescent:
    """v ← μ v + g,  W ← W − lr v."""

    lr: float
    momentum: float = 0.0
    velocity: list | None = None

    def step(self, objective, factors, gradients):
        velocity = self.velocity or [np.zeros_like(g) for g in gradients]
        self.velocity = [self.momentum * v + g for v, g in zip(velocity, gradients, strict=True)]
        return self.velocity, self.lr


@dataclass
class GroupRMSprop:
    """v ← α v + (1 − α) Σ_j ‖g_j‖²,  W ← W − lr / (√(v / (1 − αᵗ)) + eps) · g, one v for all factors."""

    lr: float
    alpha: float = 0.99
    eps: float = 1e-4
    v: float = 0.0
    t: int = 0

    def step(self, objective, factors, gradients):
        self.t += 1
        self.v = self.alpha * self.v + (1 - self.alpha) * sum(np.sum(g**2) for g in gradients)
        return gradients, self.lr / (np.sqrt(self.v / (1 - self.alpha**self.t)) + self.eps)


@dataclass
class ExactLineSearch:
    """W ← W − η g with η the global minimizer of the loss over (0, max_step]."""

    max_step: float = np.inf

    def step(self, objective, factors, gradients):
        return gradients, minimizing_step(objective.loss_along(factors, gradients), self.max_step)


@dataclass
class Path:
    """Where a trajectory is, the losses it saw, from the start on, and the lengths of its steps."""

    factors: list
    losses: list = field(default_factory=list)
    lengths: list = field(default_factory=list)


def trajectory(objective, factors, rule, steps):
    """Follow a rule for a number of steps."""
    path = Path([np.array(w, dtype=np.float64) for w in factors])
    path.losses.append(objective.loss(path.factors))
    for _ in range(steps):
        direction, length = rule.step(objective, path.factors, objective.gradients(path.factors))
        path.factors = [w - length * d for w, d in zip(path.factors, direction, strict=True)]
        path.lengths.append(length)
        path.losses.append(objective.loss(path.factors))
    return path
