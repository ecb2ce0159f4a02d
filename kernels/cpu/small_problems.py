"""The gradient flow of X = UUᵀ for very many tiny sensing problems, each followed to its end.

The loss is ℓ = ½ Σ r_i² with r_i = ⟨A_i, UUᵀ⟩ − y_i, for symmetric A_i.  With V_i = A_i U and G = Σ r_i A_i
the flow is dU/dt = −∇ℓ = −2 Σ r_i V_i, and the Hessian H acts on D as 2 G D + 4 Σ V_i ⟨V_i, D⟩.  It is
small enough to be written out and factorized, so the integrator is a Rosenbrock method: the pair of order
4(3) with six stages of Hairer & Wanner (Solving ODEs II, section IV.7, RODAS), L-stable and stiffly accurate.

An L-stable method damps what it cannot follow, growing modes too, and would then settle on saddles.  So no
step is longer than a fraction of the time in which the fastest mode grows: H + (GROWTH / h) I ≻ 0, which a
Cholesky factorization decides.
"""

from typing import NamedTuple

import numpy as np

from fastdmf.kernels.cpu.compilation import entry_point, kernel
from fastdmf.kernels.cpu.tables import copy_into, vector_at

# Why a flow ended.  At a saddle the gradient nearly vanishes, but ℓ still falls in some direction.
CONVERGED, STATIONARY, SADDLE, MAX_STEPS, DIVERGED = range(5)

# RODAS: I / (γ h) + H is solved for the stages k_i of −∇ℓ(U + Σ_j a_ij k_j) + Σ_j c_ij k_j / h.
_GAMMA = 0.25
_STAGES = 6
_A = np.array(
    [
        [0.0, 0.0, 0.0, 0.0, 0.0],
        [1.544, 0.0, 0.0, 0.0, 0.0],
        [0.9466785280815826, 0.2557011698983284, 0.0, 0.0, 0.0],
        [3.314825187068521, 2.896124015972201, 0.9986419139977817, 0.0, 0.0],
        [1.221224509226641, 6.019134481288629, 12.53708332932087, -0.6878860361058950, 0.0],
        [1.221224509226641, 6.019134481288629, 12.53708332932087, -0.6878860361058950, 1.0],
    ]
)
_C = np.array(
    [
        [0.0, 0.0, 0.0, 0.0, 0.0],
        [-5.6688, 0.0, 0.0, 0.0, 0.0],
        [-2.430093356833875, -0.2063599157091915, 0.0, 0.0, 0.0],
        [-0.1073529058151375, -9.594562251023355, -20.47028614809616, 0.0, 0.0],
        [7.496443313967647, -10.24680431464352, -33.99990352819905, 11.70890893206160, 0.0],
        [8.083246795921522, -7.981132988064893, -31.52159432874371, 16.31930543123136, -6.058818238834054],
    ]
)

#: No mode grows by more than this exponent in a step: then the method follows its growth to about 1e-6.
GROWTH = 0.25
#: Steps are at most this over ‖H‖, beyond which rounding hides the sign of the Hessian's eigenvalues, …
_LONGEST = 1e12
#: … and a step that would have to be shorter than this over ‖H‖ cannot be had.
_SHORTEST = 1e-30
#: By so much of itself, and by the threshold, the loss may rise: that is rounding, also beside a saddle.
_LOSS_ROUNDING = 1e-10
#: A gradient below this, relative to ‖H‖ ‖U‖, is rounding.
_ROUNDING = 1e-15
#: At a saddle the gradient is below this, relative to ‖H‖ ‖U‖.
_FLAT = 1e-4
#: Eigenvalues of the Hessian above −_CURVED ‖H‖ count as zero.
_CURVED = 1e-8


class Room(NamedTuple):
    """Memory for one problem of m measurements, n × n, at a time; N = n².

    ``images`` and ``next_images`` (m, n, n) are V_i; ``r`` and ``next_r`` (m,) residuals; ``u`` and
    ``next_u`` (n, n) points; ``weighted`` (n, n) is G; ``downhill`` (N,) is −∇ℓ; ``stages`` (6, N) are k_i;
    ``hessian`` and ``triangle`` (N, N) hold lower triangles.
    """

    images: np.ndarray
    next_images: np.ndarray
    r: np.ndarray
    next_r: np.ndarray
    u: np.ndarray
    next_u: np.ndarray
    weighted: np.ndarray
    downhill: np.ndarray
    stages: np.ndarray
    hessian: np.ndarray
    triangle: np.ndarray


@kernel
def _evaluate(matrices, values, u, images, r):
    """Write V_i = A_i U and r_i = ⟨V_i, U⟩ − y_i; return ℓ = ½ Σ r_i²."""
    m, n = matrices.shape[0], matrices.shape[1]
    loss = 0.0
    for i in range(m):
        measured = 0.0
        for a in range(n):
            for b in range(n):
                v = 0.0
                for c in range(n):
                    v += matrices[i, a, c] * u[c, b]
                images[i, a, b] = v
                measured += v * u[a, b]
        r[i] = measured - values[i]
        loss += 0.5 * r[i] * r[i]
    return loss


@kernel
def _write_downhill(images, r, out):
    """−∇ℓ = −2 Σ r_i V_i as a vector; return its norm."""
    n = images.shape[1]
    square = 0.0
    for a in range(n):
        for b in range(n):
            total = 0.0
            for i in range(r.size):
                total += r[i] * images[i, a, b]
            out[a * n + b] = -2.0 * total
            square += 4.0 * total * total
    return np.sqrt(square)


@kernel
def _write_hessian(matrices, images, r, weighted, out):
    """The lower triangle of H, 2 G ⊗ I + 4 Σ V_i V_iᵀ; return tr 4 Σ V_i V_iᵀ + 2n ‖G‖ ≥ ‖H‖."""
    m, n = matrices.shape[0], matrices.shape[1]
    square = 0.0
    for a in range(n):
        for c in range(n):
            total = 0.0
            for i in range(m):
                total += r[i] * matrices[i, a, c]
            weighted[a, c] = total
            square += total * total
    size = 2.0 * n * np.sqrt(square)
    for a in range(n):
        for b in range(n):
            row = a * n + b
            for c in range(a + 1):
                for d in range(n if c < a else b + 1):
                    total = 0.0
                    for i in range(m):
                        total += images[i, a, b] * images[i, c, d]
                    out[row, c * n + d] = 4.0 * total + (2.0 * weighted[a, c] if b == d else 0.0)
                    if c == a and d == b:
                        size += 4.0 * total
    return size


@kernel
def _factorize(hessian, shift, out):
    """Write L with L Lᵀ = H + shift I, its diagonal inverted; return whether that is positive definite."""
    for j in range(len(hessian)):
        pivot = hessian[j, j] + shift
        for k in range(j):
            pivot -= out[j, k] * out[j, k]
        if not pivot > 0.0:
            return False
        inverse = 1.0 / np.sqrt(pivot)
        out[j, j] = inverse
        for i in range(j + 1, len(hessian)):
            total = hessian[i, j]
            for k in range(j):
                total -= out[i, k] * out[j, k]
            out[i, j] = total * inverse
    return True


@kernel
def _solve(triangle, x):
    """Replace x by (L Lᵀ)⁻¹ x."""
    size = x.size
    for i in range(size):
        total = x[i]
        for k in range(i):
            total -= triangle[i, k] * x[k]
        x[i] = total * triangle[i, i]
    for i in range(size - 1, -1, -1):
        total = x[i]
        for k in range(i + 1, size):
            total -= triangle[k, i] * x[k]
        x[i] = total * triangle[i, i]


@kernel
def _copy(target, source):
    """``target[:] = source`` for contiguous arrays of one shape."""
    x = vector_at(source.ctypes.data, source.size, source)
    copy_into(vector_at(target.ctypes.data, target.size, target), x)


@kernel
def _try_step(matrices, values, room, h):
    """Write the point after a step of size h, its V_i and r_i; return its loss and the norm of the error.

    ``room.triangle`` is that of I / (γ h) + H.  The last stage is the difference of the two solutions.
    """
    n = matrices.shape[1]
    u, next_u, stages = room.u, room.next_u, room.stages
    for s in range(_STAGES):
        k = stages[s]
        if s == 0:
            copy_into(k, room.downhill)
        else:
            for a in range(n):
                for b in range(n):
                    total = u[a, b]
                    for j in range(s):
                        total += _A[s, j] * stages[j, a * n + b]
                    next_u[a, b] = total
            _evaluate(matrices, values, next_u, room.next_images, room.next_r)
            _write_downhill(room.next_images, room.next_r, k)
            for j in range(s):
                weight = _C[s, j] / h
                for e in range(k.size):
                    k[e] += weight * stages[j, e]
        _solve(room.triangle, k)
    error = 0.0
    for a in range(n):
        for b in range(n):
            last = stages[_STAGES - 1, a * n + b]
            next_u[a, b] += last
            error += last * last
    return _evaluate(matrices, values, next_u, room.next_images, room.next_r), np.sqrt(error)


@kernel
def _norm(u):
    total = 0.0
    for x in u.flat:
        total += x * x
    return np.sqrt(total)


@kernel
def _accept(room):
    _copy(room.u, room.next_u)
    _copy(room.images, room.next_images)
    copy_into(room.r, room.next_r)


@kernel
def _follow_one(matrices, values, room, threshold, rtol, max_steps):
    """The flow from ``room.u`` until ℓ ≤ threshold.

    Returns
    -------
    event, loss, time, steps, evaluations
        Why it ended, and what was reached and counted; attempts that were rejected count as steps.
    """
    loss, evaluations, time, h = _evaluate(matrices, values, room.u, room.images, room.r), 1, 0.0, np.inf
    for steps in range(max_steps + 1):
        if loss <= threshold:
            return CONVERGED, loss, time, steps, evaluations
        if not np.isfinite(loss):
            return DIVERGED, loss, time, steps, evaluations
        force = _write_downhill(room.images, room.r, room.downhill)
        size = _write_hessian(matrices, room.images, room.r, room.weighted, room.hessian)
        length = _norm(room.u)
        if size == 0.0:  # nothing is measured
            return STATIONARY, loss, time, steps, evaluations
        # Where X = 0 fits best, U and the gradient vanish together: compare with the length that fits, too.
        flatness = force / (size * max(length, np.sqrt(loss / size)))
        if flatness <= _ROUNDING or steps == max_steps:
            is_valley = _factorize(room.hessian, _CURVED * size, room.triangle)
            if is_valley and flatness <= _ROUNDING:
                return STATIONARY, loss, time, steps, evaluations
            if steps == max_steps:
                is_saddle = flatness <= _FLAT and not is_valley
                return SADDLE if is_saddle else MAX_STEPS, loss, time, steps, evaluations
        if steps == 0:
            h = 0.1 / size
        h = min(h, _LONGEST / size)
        while not _factorize(room.hessian, GROWTH / h, room.triangle):
            h *= 0.7
            if not h * size > _SHORTEST:
                return DIVERGED, loss, time, steps, evaluations
        _factorize(room.hessian, 1.0 / (_GAMMA * h), room.triangle)
        next_loss, error = _try_step(matrices, values, room, h)
        evaluations += _STAGES
        relative = error / (rtol * max(length, _norm(room.next_u)))
        if relative <= 1.0 and next_loss <= loss * (1.0 + _LOSS_ROUNDING) + threshold:
            _accept(room)
            loss, time = next_loss, time + h
            h *= min(5.0, 0.9 * max(relative, 1e-8) ** -0.25)
        else:
            h *= min(0.5, max(0.1, 0.9 * relative**-0.25)) if relative < np.inf else 0.1
    return MAX_STEPS, loss, time, max_steps, evaluations


@entry_point
def follow(matrices, values, factors, room, thresholds, rtol, max_steps, loss, time, counts):
    """Follow every problem's flow from ``factors`` (B, n, n), which are replaced by where it ended.

    ``matrices`` (B, m, n, n) are symmetric and ``values`` (B, m); the flow of problem b ends at
    ℓ ≤ ``thresholds[b]``.  ``loss`` and ``time`` (B,) are written, and ``counts`` (B, 3): why it ended, steps
    and evaluations.
    """
    for b in range(len(values)):
        _copy(room.u, factors[b])
        event, loss[b], time[b], steps, evaluations = _follow_one(
            matrices[b], values[b], room, thresholds[b], rtol, max_steps
        )
        _copy(factors[b], room.u)
        counts[b, 0], counts[b, 1], counts[b, 2] = event, steps, evaluations
