"""Writes the table of docs/cuda.md: what each CUDA kernel moves and computes, and the least time it takes.

``python bench/cuda_table.py``, after the counts beside a kernel have changed.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parent.parent / "docs" / "cuda.md"
KERNELS = Path(__file__).parent.parent / "kernels" / "cuda"
BEGIN, END = "<!-- counts: bench/cuda_table.py -->\n", "<!-- end of counts -->\n"

#: An H100: bytes and flops in a second, by the bytes of a real, multiprocessors, and how many threads of one
#: compute in float64 at a time.
BANDWIDTH, RATE, MULTIPROCESSORS, LANES = 3.0e12, {4: 67e12, 8: 33.5e12}, 132, 64

Sizes = Mapping[str, float]

#: 10⁷ entries of a 100,000 × 10,000 matrix at width 64 and depth 2; 2000 dense measurements of a 100 × 100
#: matrix, or sparse ones of a hundredth of its entries each; a trial on 500 entries of a 50 × 50 matrix.
LARGE = {
    "S": 1e7,
    "width": 64,
    "rows": 1e5,
    "size": 64 * 1.1e5,
    "count": 4096,
    "losses": 4096,
    "gradients": 4096,
    "terms": 4,
    "lefts": 1,
    "rights": 1,
    "N": 2,
}
MEASURED = {"m": 2000, "K": 1e4, "n": 100, "p": 100, "blocks": 500, "count": 500, "nnz": 2e5, "S": 1e4}
SMALL = {"S": 500, "width": 50, "size": 5000}


class Row(NamedTuple):
    kernel: str
    bytes: str
    flops: str
    sizes: Sizes


def sizes_of(kernel: str) -> Sizes:
    """The problem that a kernel's time is given for."""
    if kernel == "advance_each":
        return SMALL
    sensing = ("sparse_residual", "sparse_adjoint", "pack", "dense_residual", "sum_slots")
    return MEASURED if kernel in sensing else LARGE


def rows() -> list[Row]:
    """The counts that stand beside the kernels, in the order of the sources."""
    found = []
    for path in sorted(KERNELS.glob("*.cu")):
        text = re.sub(r"\n// ?", " ", path.read_text(encoding="utf-8"))
        for said, name in re.findall(r"([^\n]*)\nextern \"C\" [^\n]*\) (\w+)\(", text):
            counts = re.search(r"Bytes: ([^;]+);  .*?flops: ([^.]+)\.", said)
            if counts is None:
                raise ValueError(f"no counts stand beside {name}")
            found.append(Row(name, counts[1], counts[2], sizes_of(name)))
    return found


def value(formula: str, sizes: Sizes, real: int) -> float:
    """A formula such as ``S (2 width b + 8)``, in which what stands side by side is multiplied."""
    powers = formula.replace("²", "**2").replace("³", "**3").replace("**2 ", "**2 * ")
    product = re.sub(r"(?<=[\w)])\s+(?=[\w(])", " * ", powers)
    product = product.replace("* /", "/").replace("* +", "+")
    return eval(product, {"__builtins__": {}}, {**sizes, "b": real})


def microseconds(row: Row, real: int) -> float:
    """The least time of a launch; of a small trial, that of a step on a multiprocessor of its own.

    The step of a line search is found by one thread.
    """
    flops = value(row.flops, row.sizes, real)
    if row.kernel == "advance_each":
        return 1e6 * flops / RATE[real] * MULTIPROCESSORS
    if row.kernel == "exact_step":
        return 1e6 * flops / RATE[8] * MULTIPROCESSORS * LANES
    return 1e6 * max(value(row.bytes, row.sizes, real) / BANDWIDTH, flops / RATE[real])


def table() -> str:
    """The table, in Markdown."""
    lines = ["| kernel | bytes | flops | µs, float32 | µs, float64 |", "|---|---|---|---|---|"]
    for row in rows():
        times = (_short(microseconds(row, real)) for real in (4, 8))
        lines.append(f"| `{row.kernel}` | {row.bytes} | {row.flops} | {' | '.join(times)} |")
    return "\n".join(lines) + "\n"


def _short(x: float) -> str:
    return f"{x:.0f}" if x >= 99.5 else f"{x:.2g}"


def main() -> None:
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(before + BEGIN + "\n" + table() + "\n" + END + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
