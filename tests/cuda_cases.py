"""Every CUDA kernel on small inputs, with what float64 NumPy has to say about its results.

Run as a program, with a sanitizer loaded before it: SANITIZER SCHEDULE DTYPE SOURCE KERNEL …
"""

import sys
from pathlib import Path

import numpy as np

from fastdmf.kernels.cuda import sources
from fastdmf.kernels.cuda.sources import (
    EVENT,
    GRADIENT_SQUARED,
    LOSS,
    MEAN_SQUARE,
    NEXT_MEAN_SQUARE,
    SLOTS,
    STEP,
    STEPS,
    TAKEN,
    TIME,
    UNIT,
    WARP,
    WARPS,
)


def filled(shape, dtype):
    """Memory that must be written: NaN."""
    return np.full(shape, np.nan, dtype)


def going(**slots):
    state = np.zeros(SLOTS)
    state[UNIT] = 1.0
    for slot, value in slots.items():
        state[getattr(sources, slot)] = value
    return state


class Observed:
    """A support with an empty row and an empty column, factors, values, and residuals."""

    def __init__(self, dtype, n=13, p=11, width=37, entries=90):
        rng = np.random.default_rng(1)
        self.dtype, self.n, self.p, self.width = dtype, n, p, width
        places = rng.choice((n - 1) * (p - 1), entries, replace=False)
        rows, cols = np.divmod(np.sort(places), p - 1)
        self.rows, self.cols = rows.astype(np.int32), cols.astype(np.int32)
        self.left, self.right = (rng.standard_normal((k, width)).astype(dtype) for k in (n, p))
        self.values, self.z = (rng.standard_normal(entries).astype(dtype) for _ in "yz")
        self.dense_z = np.zeros((n, p))
        self.dense_z[rows, cols] = self.z
        self.by_row = starts_of(rows, n), self.cols, np.arange(entries, dtype=np.int32)
        order = np.argsort(cols, kind="stable").astype(np.int32)
        self.by_col = starts_of(cols, p), self.rows[order], order


def starts_of(sorted_or_not, size):
    return np.concatenate(([0], np.cumsum(np.bincount(sorted_or_not, minlength=size)))).astype(np.int64)


def grid_of(rows, width):
    return -(-rows // WARPS), -(-width // WARP)


def sampled_residual(launch, dtype, per_warp=4):
    o = Observed(dtype)
    size = o.values.size
    blocks = -(-size // (WARPS * per_warp))
    z, partials = filled(size, dtype), filled(blocks, float)
    launch(
        "sampled_residual", (blocks,), o.left, o.right, o.rows, o.cols, o.values, 0.25, size, o.width,
        per_warp, going(), z, partials,
    )  # fmt: skip
    sampled = filled(size, dtype)
    launch(
        "sampled_residual", (blocks,), o.left, o.right, o.rows, o.cols, None, 1.0, size, o.width, per_warp,
        going(), sampled, None,
    )  # fmt: skip
    w = np.sum(o.left[o.rows].astype(float) * o.right[o.cols], axis=1)
    r = w - o.values
    per_block = np.add.reduceat(r**2, np.arange(0, size, WARPS * per_warp))
    return {"z": (z, 0.25 * r), "partials": (partials, per_block), "sampled": (sampled, w)}


def gather(launch, dtype):
    o = Observed(dtype)
    left, right = filled(o.left.shape, dtype), filled(o.right.shape, dtype)
    launch("gather", grid_of(o.n, o.width), *o.by_row, o.z, o.right, o.n, o.width, going(), left)
    launch("gather", grid_of(o.p, o.width), *o.by_col, o.z, o.left, o.p, o.width, going(), right)
    return {"left": (left, o.dense_z @ o.right), "right": (right, o.dense_z.T @ o.left)}


def gather_step(launch, dtype):
    o = Observed(dtype)
    rng = np.random.default_rng(2)
    base, velocity = (rng.standard_normal(o.left.shape).astype(dtype) for _ in "bv")
    plain, moved, new = (filled(o.left.shape, dtype) for _ in "pmn")
    front = (*o.by_row, o.z, o.right, o.n, o.width, going(STEP=0.5))
    launch("gather_step", grid_of(o.n, o.width), *front, 0.0, None, None, base, plain)
    launch("gather_step", grid_of(o.n, o.width), *front, 0.9, velocity, new, base, moved)
    g = o.dense_z @ o.right
    v = 0.9 * velocity.astype(float) + g
    return {"plain": (plain, base - 0.5 * g), "new": (new, v), "moved": (moved, base - 0.5 * v)}


def descend(launch, dtype, size=300):
    rng = np.random.default_rng(3)
    g, velocity, base = (rng.standard_normal(size).astype(dtype) for _ in "gvb")
    plain, moved, new = (filled(size, dtype) for _ in "pmn")
    grid, state = (-(-size // sources.BLOCK),), going(STEP=0.5)
    launch("descend", grid, g, size, state, 0.0, None, None, base, plain)
    launch("descend", grid, g, size, state, 0.9, velocity, new, base, moved)
    v = 0.9 * velocity.astype(float) + g
    return {"plain": (plain, base - 0.5 * g.astype(float)), "new": (new, v), "moved": (moved, base - 0.5 * v)}


def squares(launch, dtype, size=1000, per_block=300):
    x = np.random.default_rng(4).standard_normal(size).astype(dtype)
    partials = filled(4, float)
    launch("squares", (4,), x, size, per_block, going(), partials)
    expected = np.add.reduceat(x.astype(float) ** 2, np.arange(0, size, per_block))
    return {"partials": (partials, expected)}


def pace(launch, dtype):
    partials = np.random.default_rng(5).random(600)
    fresh, known = (going(STEPS=6.0, MEAN_SQUARE=0.75, GRADIENT_SQUARED=2.5) for _ in "ab")
    launch("pace", (1,), partials, partials.size, 0.01, 0.9, 1e-4, fresh)
    launch("pace", (1,), None, 0, 0.01, 0.9, 1e-4, known)
    out = {}
    for name, state, total in (("fresh", fresh, partials.sum()), ("known", known, 2.5)):
        expected = going(STEPS=6.0, MEAN_SQUARE=0.75, GRADIENT_SQUARED=total)
        v = expected[NEXT_MEAN_SQUARE] = 0.9 * 0.75 + 0.1 * total
        expected[STEP] = 0.01 / (np.sqrt(v / (1 - 0.9**7)) + 1e-4)
        out[name] = state, expected
    return out


def settle(launch, dtype):
    rng = np.random.default_rng(6)
    losses, gradients = rng.random(700), rng.random(300)
    loss, squared = 0.5 * losses.sum(), gradients.sum()
    cases = {  # moved, pairs, until → EVENT
        "evaluated": (0, [(np.inf, np.inf)], 0.0, 0),
        "going": (1, [(0.99 * loss, np.inf), (np.inf, 0.99 * np.sqrt(squared))], np.inf, 0),
        "loss": (1, [(1.01 * loss, np.inf)], np.inf, 1),
        "both": (1, [(0.0, 0.0), (1.01 * loss, 1.01 * np.sqrt(squared))], np.inf, 1),
        "time": (1, [], 3.25, 1),
        "diverged": (1, [(np.inf, np.inf)], 0.0, 2),
    }
    out = {}
    before = {
        "STEPS": 4.0,
        "TAKEN": 2.0,
        "TIME": 3.0,
        "STEP": 1.0,
        "UNIT": 0.25,
        "MEAN_SQUARE": 1.0,
        "NEXT_MEAN_SQUARE": 2.0,
    }
    for name, (moved, pairs, until, event) in cases.items():
        state, expected = going(**before), going(**before)
        numbers = losses.copy()
        if name == "diverged":
            numbers[123] = np.nan
        launch(
            "settle", (1,), numbers, numbers.size, 0.5, gradients, gradients.size, moved,
            np.array(pairs or [(0.0, 0.0)]), len(pairs), until, state,
        )  # fmt: skip
        expected[EVENT] = event
        if name != "diverged":
            expected[[LOSS, GRADIENT_SQUARED]] = loss, squared
        if moved and name != "diverged":
            expected[[STEPS, TAKEN, TIME, MEAN_SQUARE]] = 5.0, 3.0, 3.25, 2.0
        out[name] = state, expected
    return out


class Trials:
    """Two trials of a completion by W = (M₁ M₂)(M₃ M₄)ᵀ or UUᵀ, in homes as ``lockstep.cu`` has them."""

    def __init__(self, dtype, tied, momentum):
        o = Observed(dtype, 21, 21 if tied else 19, 10, 150)
        rng = np.random.default_rng(7)
        chains = [[(21, 10)]] if tied else [[(21, 12), (12, 10)], [(19, 33), (33, 10)]]
        self.shapes = [shape for chain in chains for shape in chain]
        self.observed, self.tied, self.momentum = o, tied, momentum
        self.size = sum(n * p for n, p in self.shapes)
        self.sets = 5 if momentum else 3
        end, at, plan = self.sets * self.size + o.values.size, 0, []
        for chain in chains:
            for j, (n, p) in enumerate(chain):
                product = chain[0][0] * p if j else 0
                plan.append((n, p, at, end, end + product))
                at, end = at + n * p, end + 2 * product
        self.left, self.right, self.plan = len(chains[0]), len(self.shapes) - len(chains[0]), np.int32(plan)
        self.homes = [filled(end, dtype) for _ in range(2)]
        self.starts = []
        for home in self.homes:
            home[: self.size] = 0.5 * rng.standard_normal(self.size)
            if momentum:
                home[3 * self.size : 4 * self.size] = rng.standard_normal(self.size)
            self.starts.append(home.copy().astype(float))
        both = np.concatenate((o.rows, o.cols)), np.concatenate((o.cols, o.rows))
        owner, self.index = both
        owner = owner + np.where(np.arange(owner.size) < o.rows.size, 0, 0 if tied else 21)
        order = np.argsort(owner, kind="stable")
        self.owners = 21 if tied else 40
        self.lists = starts_of(owner, self.owners), self.index[order], np.int32(order % o.rows.size)

    def matrices(self, flat):
        ends = np.cumsum([0] + [n * p for n, p in self.shapes])
        return [flat[a:b].reshape(s) for a, b, s in zip(ends[:-1], ends[1:], self.shapes, strict=True)]

    def loss_and_gradient(self, flat, scale):
        o, m = self.observed, self.matrices(flat)
        left, right = (m[0], m[0]) if self.tied else (m[0] @ m[1], m[2] @ m[3])
        z = np.zeros((left.shape[0], right.shape[0]))
        z[o.rows, o.cols] = (left @ right.T)[o.rows, o.cols] - o.values
        g = scale * z
        if self.tied:
            gradients = [(g + g.T) @ m[0]]
        else:
            in_left, in_right = g @ right, g.T @ left
            gradients = [in_left @ m[1].T, m[0].T @ in_left, in_right @ m[3].T, m[2].T @ in_right]
        return 0.5 * scale * np.sum(z**2), np.concatenate([x.ravel() for x in gradients])

    def expected(self, k, steps, scale, lr, alpha=None):
        """Point, gradient, velocity and state after some steps, in float64."""
        s = self.size
        point, velocity = self.starts[k][:s].copy(), self.starts[k][3 * s : 4 * s].copy()
        state = going(STEPS=3.0, TIME=2.0, MEAN_SQUARE=0.5)
        for _ in range(steps):
            g, step = self.loss_and_gradient(point, scale)[1], lr
            if alpha is not None:
                state[MEAN_SQUARE] = alpha * state[MEAN_SQUARE] + (1 - alpha) * np.sum(g**2)
                step = lr / (np.sqrt(state[MEAN_SQUARE] / (1 - alpha ** (state[STEPS] + 1))) + 1e-4)
            if self.momentum:
                g = velocity = self.momentum * velocity + g
            point -= step * g
            state[[STEPS, TIME]] += 1.0, step
        state[LOSS], gradient = self.loss_and_gradient(point, scale)
        return point, gradient, velocity, state


def sampled_powers(launch, dtype, per_warp=6):
    o, rng, out = Observed(dtype), np.random.default_rng(17), {}
    size = o.values.size
    grid = (-(-size // (WARPS * per_warp)),)
    for name, lefts, rights in (("one and one", 1, 1), ("three and two", 3, 2)):
        ends, counts = (o.left, o.right), (lefts, rights)
        moved = [rng.standard_normal((k, *x.shape)).astype(dtype) for k, x in zip(counts, ends, strict=True)]
        found = filled((lefts + rights, size), dtype)
        launch(
            "sampled_powers", grid, *ends, *moved, *counts, o.left.size, o.right.size, o.rows, o.cols, size,
            o.width, per_warp, going(), found,
        )  # fmt: skip
        x, y = (np.stack([x, *more]).astype(float) for x, more in zip(ends, moved, strict=True))
        wanted = np.zeros((lefts + rights + 1, size))
        for a, b in np.ndindex(lefts + 1, rights + 1):
            wanted[a + b] += np.sum(x[a][o.rows] * y[b][o.cols], axis=1)
        out[name] = found, wanted[1:]
    return out


def inner_products(launch, dtype, size=700, degree=2, per_block=512):
    c = np.random.default_rng(18).standard_normal((degree + 1, size)).astype(dtype)
    pairs = [(s, t) for s in range(degree + 1) for t in range(s + 1)]
    partials = filled((len(pairs), 2), float)
    launch("inner_products", (len(pairs), 2), c[0], c[1:], size, per_block, 2, going(), partials)
    products = np.array([c[s].astype(float) * c[t] for s, t in pairs])
    return {"partials": (partials, np.add.reduceat(products, [0, per_block], axis=1))}


def normalize(launch, dtype, size=700, per_block=512):
    x, partials = np.random.default_rng(19).standard_normal(size).astype(dtype), np.array([3.0, 2.0])
    # √5 is 0.56 · 2²; nothing grows or shrinks by more than its type can say.
    most, out = {"float32": 120, "float64": 1000}[dtype.name], {}
    for name, scale, unit in (
        ("large", 1.0, 2.0**-2), ("small", 2.0**-60, 2.0**28), ("least", 5e-324, 2.0 ** min(535, most)),
        ("zero", 0.0, 1.0), ("infinite", np.inf, 1.0),
    ):  # fmt: skip
        g, state, expected = x.copy(), going(STEP=2.0), going(STEP=2.0, UNIT=unit)
        launch("normalize", (2,), partials * scale, 2, g, size, per_block, state)
        out[f"{name}: gradient"], out[f"{name}: state"] = (g, unit * x), (state, expected)
    return out


def minima(c, max_step=np.inf):
    """Steps in (0, max_step] to minima of ‖Σ_t c_t (−η)ᵗ‖² by NumPy, and 0: the lowest first."""
    signed = c * (-1.0) ** np.arange(len(c))[:, None]
    loss = np.sum([np.polynomial.Polynomial(column) ** 2 for column in signed.T])
    fall, slope = loss - loss(0.0), loss.deriv()
    roots = slope.roots()
    # A step of Newton's corrects what eigenvalues leave of a root.
    inside = [x - slope(x) / slope.deriv()(x) for x in roots[np.isreal(roots)].real if 0.0 < x < max_step]
    ends = [0.0, *([max_step] if np.isfinite(max_step) else [])]
    return sorted([x for x in inside if slope.deriv()(x) > 0.0] + ends, key=fall)


def exact_step(launch, dtype):
    rng, out = np.random.default_rng(512), {}
    cubic = rng.standard_normal((4, 3))
    lowest, first = minima(cubic)[:2]
    assert 0.0 < 2.0 * first < lowest, "the first minimum is the lowest: nothing to find"
    underflows = (1.0 + rng.random((3, 5))) * np.array([1.0, 1.0, 1e-200])[:, None]
    # The loss is 9e-12 near 1 and 0 at 4, where terms up to 100 cancel.
    far = np.array([[1.0, 4e-6], [1.25, 1e-6], [0.25, 0.0]])
    uphill, saddle = np.array([[1.0], [-1.0], [1.0]]), np.array([[1.0], [1e-20], [1e-20]])
    for name, c, max_step in (
        ("cubic", cubic, np.inf),
        ("capped between minima", cubic, 0.5 * (first + lowest)),
        ("capped", cubic, 0.5 * first),
        ("of a lower degree", underflows, np.inf),
        ("fitted", 0.0 * cubic, np.inf),
        ("uphill", uphill, np.inf),
        ("at a saddle", saddle, 0.25),
        ("of two that rounding does not tell apart", far, np.inf),
    ):
        n, scale = len(c) - 1, 0.25
        told = c.copy()
        told[0] *= scale
        sums = np.array([told[s] @ told[t] for s in range(n + 1) for t in range(s + 1)])
        state, expected = going(LOSS=1.0, UNIT=0.5), going(LOSS=1.0, UNIT=0.5)
        ladder = filled((2 * n + 3, 2 * n + 2), float)
        launch("exact_step", (1,), sums, n, scale, 0.5 * max_step, ladder, state)
        expected[STEP] = minima(c[:2] if name == "of a lower degree" else c, max_step)[int(c is far)]
        assert (expected[STEP] == 0.0) == (name in ("fitted", "uphill")), name
        out[name] = state, expected
    return out


def advance_each(launch, dtype):
    out, scale, pairs = {}, 0.02, np.array([(0.0, np.inf), (1e9, np.inf), (0.0, 0.0), (1e9, 1e9)])
    for name, (tied, momentum, lr, alpha, norm) in {
        "chains": (False, 0.0, 0.3, None, False),
        "tied": (True, 0.9, 0.1, None, True),
        "paced": (False, 0.0, 0.1, 0.9, False),
        "paced and watched": (True, 0.0, 0.1, 0.9, True),
    }.items():
        t = Trials(dtype, tied, momentum)
        o, s = t.observed, t.size
        addresses = np.array([home.ctypes.data for home in t.homes])
        states = np.stack([going(STEPS=3.0, TIME=2.0, MEAN_SQUARE=0.5) for _ in t.homes])
        # The first goes on to its last step, the second halts at its first one.
        orders = np.array([(3.0, np.inf, 2 * norm, 1, norm), (4.0, np.inf, 2 * norm, 2, norm)])
        launch(
            "advance_each", (2,), addresses, t.plan, t.left, t.right, s, o.rows, o.cols, o.values,
            o.values.size, *t.lists, t.owners, scale, int(alpha is not None), lr, alpha or 0.0, 1e-4,
            momentum, orders, pairs, states,
        )  # fmt: skip
        for k, (home, steps) in enumerate(zip(t.homes, (3, 1), strict=True)):
            point, gradient, velocity, state = t.expected(k, steps, scale, lr, alpha)
            out[f"{name} point {k}"] = home[:s], point
            if norm:
                out[f"{name} gradient {k}"] = home[2 * s : 3 * s], gradient
                out[f"{name} norm {k}"] = states[k, [GRADIENT_SQUARED]], np.array([np.sum(gradient**2)])
            if momentum:
                out[f"{name} velocity {k}"] = home[3 * s : 4 * s], velocity
            kept = [LOSS, TIME, STEPS]
            out[f"{name} state {k}"] = states[k, kept], state[kept]
            out[f"{name} end {k}"] = states[k, [EVENT, TAKEN]], np.array([float(k), steps])
    return out


class Measured:
    """Sparse measurements, one of which and one entry of which are empty."""

    def __init__(self, dtype, m=37, size=70):
        rng = np.random.default_rng(8)
        self.a = rng.standard_normal((m, size)) * (rng.random((m, size)) < 0.2)
        self.a[7] = self.a[:, 11] = 0.0
        self.a = self.a.astype(dtype)
        self.w, self.y = rng.standard_normal(size).astype(dtype), rng.standard_normal(m).astype(dtype)
        i, j = np.nonzero(self.a)
        order = np.argsort(j, kind="stable")
        self.by_row = starts_of(i, m), np.int32(j), self.a[i, j]
        self.by_col = starts_of(j, size), np.int32(i[order]), self.a[i, j][order]


def entry_residual(launch, dtype):
    o = Measured(dtype)
    y = np.resize(o.y, o.w.size)
    out = {}
    for name, values in (("compared", y), ("linear", None)):
        z, partials = filled(o.w.size, dtype), filled(2, float)
        launch("entry_residual", (2,), o.w, values, 0.25, o.w.size, 64, going(), z, partials)
        r = o.w.astype(float) - (0 if values is None else y)
        out[f"{name} z"] = z, 0.25 * r
        out[f"{name} partials"] = partials, np.add.reduceat(r**2, [0, 64])
    copy = filled(o.w.size, dtype)
    launch("entry_residual", (2,), o.w, None, 1.0, o.w.size, 64, going(), copy, None)
    return out | {"copy": (copy, o.w)}


def sparse_residual(launch, dtype, per_warp=2):
    o = Measured(dtype)
    m, blocks, out = o.y.size, 3, {}
    for name, values in (("compared", o.y), ("linear", None)):
        z, partials = filled(m, dtype), filled(blocks, float)
        launch("sparse_residual", (blocks,), *o.by_row, o.w, values, 0.25, m, per_warp, going(), z, partials)
        r = o.a.astype(float) @ o.w - (0 if values is None else o.y)
        out[f"{name} z"] = z, 0.25 * r
        out[f"{name} partials"] = partials, np.add.reduceat(r**2, np.arange(0, m, WARPS * per_warp))
    return out


def sparse_adjoint(launch, dtype):
    o = Measured(dtype)
    size = o.w.size
    out = filled(size, dtype)
    grid = (-(-size * sources.SHARE // sources.BLOCK),)
    launch("sparse_adjoint", grid, *o.by_col, o.y, size, going(), out)
    return {"out": (out, o.a.astype(float).T @ o.y)}


def pack(launch, dtype, n=4):
    w = np.random.default_rng(9).standard_normal((n, n)).astype(dtype)
    out = filled(n * (n + 1) // 2, dtype)
    launch("pack", (1, n), w, n, going(), out)
    both = w.astype(float) + w.T - np.diag(np.diag(w))
    return {"out": (out, both[np.triu_indices(n)])}


def dense_residual(launch, dtype, m=22, width=301, per_block=8):
    rng = np.random.default_rng(10)
    a, w, y = (rng.standard_normal(s).astype(dtype) for s in ((m, width), width, m))
    firsts, out = np.arange(0, m, per_block), {}
    for name, values in (("compared", y), ("linear", None)):
        z, slots, partials = filled(m, dtype), filled((firsts.size, width), dtype), filled(firsts.size, float)
        front = (firsts.size,), a, width, w, values, 0.25, m, per_block, going()
        launch("dense_residual", *front, z, slots, partials)
        r = a.astype(float) @ w - (0 if values is None else y)
        measured = filled(m, dtype)
        launch("dense_residual", *front, measured, None, None)
        out[f"{name} z"], out[f"{name} measured"] = (z, 0.25 * r), (measured, 0.25 * r)
        out[f"{name} slots"] = slots, np.add.reduceat(0.25 * r[:, None] * a, firsts)
        out[f"{name} partials"] = partials, np.add.reduceat(r**2, firsts)
    return out


def sum_slots(launch, dtype, count=19):
    rng = np.random.default_rng(11)
    results = {}
    for name, n, p, width in (("full", 2, 33, 66), ("packed", 4, 4, 10)):
        slots, out = rng.standard_normal((count, width)).astype(dtype), filled((n, p), dtype)
        is_packed = name == "packed"
        launch("sum_slots", (-(-p // WARP), n), slots, count, n, p, int(is_packed), 2.0, going(), out)
        total = 2.0 * slots.astype(float).sum(axis=0)
        expected = np.zeros((n, p))
        if is_packed:
            expected[np.triu_indices(n)] = total
            expected += np.triu(expected, 1).T
        results[name] = out, expected if is_packed else total.reshape(n, p)
    return results


def combine(launch, dtype, size=300):
    memory = np.random.default_rng(12).standard_normal((7, size)).astype(dtype)
    before, out = memory.astype(float), {}
    weights = (0.5, -2.0, 0.25, 1.5, -0.75, 3.0)
    for terms, to, sets in (
        (1, 2, (1, 1, 1, 1, 1, 1)),
        (4, 5, (0, 5, 1, 3, 0, 0)),
        (6, 6, (0, 1, 3, 4, 0, 1)),
    ):
        grid = (-(-size // sources.BLOCK),)
        launch("combine", grid, memory, size, to, terms, *sets, *weights, going())
        wanted = sum(w * before[k] for w, k in zip(weights[:terms], sets, strict=False))
        out[f"{terms} terms"], before = (memory[to].copy(), wanted), memory.astype(float)
    return out


def set_squares(launch, dtype, per_block=512):
    sizes, blocks = (700, 30, 256), 2
    memory = np.random.default_rng(13).standard_normal((4, sum(sizes))).astype(dtype)
    partials = filled((9, blocks), float)
    launch(
        "set_squares", (blocks, 9), memory, sum(sizes), np.cumsum(sizes), 3, 2, 0, 3, per_block, blocks,
        going(), partials,
    )  # fmt: skip
    firsts = np.cumsum((0, *sizes[:-1]))
    expected = np.array([
        [np.sum(memory[k, a : a + n][b * per_block :][:per_block].astype(float) ** 2) for b in range(blocks)]
        for k in (2, 0, 3) for a, n in zip(firsts, sizes, strict=True)
    ])  # fmt: skip
    return {"partials": (partials, expected)}


def total(launch, dtype):
    partials, totals = np.random.default_rng(14).random((3, 301)), filled(3, float)
    launch("total", (3,), partials, 301, 0.25, going(), totals)
    return {"totals": (totals, 0.25 * partials.sum(axis=1))}


def sampled_change(launch, dtype, per_warp=3):
    o = Observed(dtype)
    rng, size = np.random.default_rng(15), o.values.size
    left_dot, right_dot = (rng.standard_normal(x.shape).astype(dtype) for x in (o.left, o.right))
    w_dot, grid = filled(size, dtype), (-(-size // (WARPS * per_warp)),)
    ends = o.left, o.right, left_dot, right_dot
    launch("sampled_change", grid, *ends, o.rows, o.cols, size, o.width, per_warp, going(), w_dot)
    left, right, left_dot, right_dot = (x.astype(float) for x in ends)
    whole = left_dot @ right.T + left @ right_dot.T
    return {"w_dot": (w_dot, whole[o.rows, o.cols])}


def gather_change(launch, dtype):
    o = Observed(dtype)
    rng = np.random.default_rng(16)
    z_dot, dense_dot = (rng.standard_normal(x.shape).astype(dtype) for x in (o.z, o.right))
    out = filled(o.left.shape, dtype)
    launch(
        "gather_change", grid_of(o.n, o.width), *o.by_row, o.z, z_dot, o.right, dense_dot, o.n, o.width,
        going(), out,
    )  # fmt: skip
    dense_z_dot = np.zeros_like(o.dense_z)
    dense_z_dot[o.rows, o.cols] = z_dot
    return {"out": (out, dense_z_dot @ o.right + o.dense_z @ dense_dot)}


CASES = {
    case.__name__: case
    for case in (
        sampled_residual,
        entry_residual,
        gather,
        gather_step,
        sparse_residual,
        sparse_adjoint,
        pack,
        dense_residual,
        sum_slots,
        descend,
        squares,
        pace,
        settle,
        combine,
        set_squares,
        total,
        sampled_change,
        gather_change,
        sampled_powers,
        inner_products,
        normalize,
        exact_step,
        advance_each,
    )
}


def deviation(got, expected):
    """The largest error, relative to the largest number; NaN if anything was not written."""
    return np.max(np.abs(got - expected)) / np.max(np.abs(expected))


def check(name, launch, dtype):
    """The results of a kernel, compared with NumPy."""
    tolerance = {"float32": 3e-6, "float64": 1e-14}[dtype.name]
    results = CASES[name](launch, dtype)
    for what, (got, expected) in results.items():
        assert deviation(got, expected) < tolerance, (name, what)
    return {what: got for what, (got, _) in results.items()}


if __name__ == "__main__":
    from tests.cuda_shim import ShimDevice

    sanitizer, schedule, real, file, *kernels = sys.argv[1:]
    kind = np.dtype(real)
    device = ShimDevice(int(schedule), Path(file).read_text(encoding="utf-8"), sanitizer)
    for case in kernels:
        check(case, device.load(kind), kind)
    print(f"{len(kernels)} kernels ran")
