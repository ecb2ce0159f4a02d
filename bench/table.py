"""Writes the README's tables of figures from the newest results of asv.

``python bench/table.py --measure`` first runs what the tables need, with asv, on the fastdmf installed
beside this Python.  What was not measured is shown as –; rows without any figure are left out.
"""

import argparse
import importlib.metadata
import itertools
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

BENCH = Path(__file__).parent
README = BENCH.parent / "README.md"
BEGIN, END = "<!-- figures: bench/table.py -->\n", "<!-- end of figures -->\n"

DEPTHS = (2, 3, 4)
DTYPES = ("float32", "float64")
PEERS = {
    "numpy": ("NumPy", "numpy", "dense products, gradients by hand"),
    "jax": ("JAX", "jax", "the whole loop compiled"),
    "torch": ("PyTorch", "torch", "dense products, gradients by hand"),
    "torch_autograd": ("PyTorch", "torch", "autograd and SGD"),
    "torch_sparse": ("PyTorch", "torch", "`sampled_addmm` and sparse products"),
}


class Figure(NamedTuple):
    """One combination of parameters of one benchmark."""

    benchmark: str
    params: tuple[object, ...] = ()


def _times(x: float) -> str:
    return f"{x:.0f}" if x >= 9.95 else f"{x:.1f}"


class Row(NamedTuple):
    what: str
    figures: Sequence[Figure]
    as_text: Callable[[float], str] = _times
    unit: str = " ×"


def _over(benchmark: str, *axes: Iterable[object]) -> list[Figure]:
    return [Figure(benchmark, params) for params in itertools.product(*axes)]


FULL_WIDTH = "peers.FullWidth.track_times_faster"
MOVIELENS, RATINGS = "movielens.MovieLens.track_times_faster", (10_000, 100_000)
OTHERS = [
    Row(
        "1000 / 5000 of the entries at depth 2, float32, against NumPy",
        _over("peers.Observed.track_times_faster", ["numpy"], (1000, 5000)),
    ),
    Row("the same against JAX", _over("peers.Observed.track_times_faster", ["jax"], (1000, 5000))),
    Row(
        "MovieLens 100K, width 943, depth 2, float32, 10⁴ / 10⁵ ratings, against NumPy",
        _over(MOVIELENS, ["numpy"], RATINGS),
    ),
    Row("the same against PyTorch's sparse products", _over(MOVIELENS, ["torch_sparse"], RATINGS)),
    Row(
        "10⁷ entries of 100,000 × 10,000, width 64, depth 2, float32, against PyTorch's sparse products",
        [Figure("large.TorchSparse.track_times_faster")],
    ),
    Row("seconds of one such step", [Figure("large.Step.track_seconds")], "{:.2f}".format, " s"),
    Row("such steps on two threads against one", [Figure("large.Threads.track_times_faster")]),
    Row(
        "2000 dense measurements of a 100 × 100 matrix, float32, beside two products by BLAS: one point, "
        "one with symmetric measurements, sixteen in lockstep",
        _over("sensing.BesideGemv.track_times_faster", ("one", "symmetric", "sixteen")),
    ),
    Row(
        "the flow to a mean squared loss of 1e-6, depth 2 / 3 / 4, float32, beside the steps of GroupRMSprop "
        "that the papers' code takes, in PyTorch",
        _over("flows.BesideThePapersCode.track_times_faster", DEPTHS),
    ),
    Row(
        "eight seeds at once against one by one, completion / sensing",
        _over("ensembles.Together.track_times_faster", ["completion", "sensing"]),
    ),
    Row(
        "eight seeds on two threads against one, completion / sensing",
        _over("ensembles.Threads.track_times_faster", ["completion", "sensing"]),
    ),
    *(
        Row(
            f"share of BLAS's peak in the arithmetic needed, depth 2 / 3 / 4, {dtype}",
            _over("efficiency.Efficiency.track_share_of_blas_peak", DEPTHS, [dtype]),
            "{:.0f}".format,
            " %",
        )
        for dtype in DTYPES
    ),
    Row(
        "steps in float64 for one in float32, depth 2 / 3 / 4",
        _over("efficiency.Float64.track_rate", DEPTHS),
        "{:.2f}".format,
        "",
    ),
    *(
        Row(
            f"exact line search on top of a gradient step, in gradient steps, depth 2 / 3 / 4, {dtype}",
            _over("line_search.LineSearch.track_extra", DEPTHS, [dtype]),
            "{:.2f}".format,
            "",
        )
        for dtype in DTYPES
    ),
    Row(
        "exponent of cost over observations, 10³ … 10⁷",
        [Figure("scaling.Observations.track_exponent")],
        "{:.2f}".format,
        "",
    ),
    Row(
        "first run of all, with compilation / later first runs",
        [Figure("startup.FirstRun.track_cold"), Figure("startup.FirstRun.track_warm")],
        "{:.1f}".format,
        " s",
    ),
    Row("`import fastdmf`", [Figure("startup.Import.track_import")], "{:.2f}".format, " s"),
    Row(
        "peak memory of a process: 10⁴ entries of 943 × 1682 at full width, depth 2 / 3",
        _over("memory.Wide.peakmem_ten_steps", (2, 3)),
        lambda x: f"{x / 1e6:.0f}",
        " MB",
    ),
    Row(
        "peak memory of a process: the 10⁷ entries, drawing them included",
        [Figure("large.Step.peakmem_ten_steps")],
        lambda x: f"{x / 1e9:.1f}",
        " GB",
    ),
]


class Results:
    """The newest results of asv in this checkout, of benchmarks as they are now."""

    def __init__(self) -> None:
        from asv.benchmarks import Benchmarks  # pyright: ignore[reportMissingImports]
        from asv.config import Config  # pyright: ignore[reportMissingImports]
        from asv.results import Results, iter_results_paths  # pyright: ignore[reportMissingImports]

        config = Config.load(str(BENCH / "asv.conf.json"))
        config.results_dir = str(BENCH / config.results_dir)
        files = [Path(folder, name) for folder, name, _ in iter_results_paths(config.results_dir)]
        if not files:
            raise SystemExit("there are no results of asv yet: --measure makes some, or `asv run` in bench/")
        newest = max(files, key=lambda file: file.stat().st_mtime)
        self._saved: Any = Results.load(str(newest))
        self._known = self._saved.get_result_keys(Benchmarks.load(config))

    def __getitem__(self, figure: Figure) -> float:
        """NaN where nothing was measured."""
        name = figure.benchmark
        if name not in self._known:
            return math.nan
        params = self._saved.get_result_params(name)
        values = self._saved.get_result_value(name, params)
        place = list(itertools.product(*params)).index(tuple(map(repr, figure.params)))
        return math.nan if values[place] is None else float(values[place])

    @property
    def machine(self) -> str:
        return f"{self._saved.params['cpu']} ({self._saved.params['arch']})"

    def version(self, package: str) -> str:
        """The package's version, if the results are of the Python that asks."""
        if self._saved.env_name != f"existing-py{sys.executable.replace(os.sep, '_')}":
            return ""
        try:
            return f" {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            return ""


def tables(results: Results) -> str:
    """Both tables, in Markdown."""
    lines = [f"| | {' | '.join(f'depth {depth}' for depth in DEPTHS)} |", "|---|---|---|---|"]
    for peer, (name, package, how) in PEERS.items():
        cells = [_cell(results, _over(FULL_WIDTH, [peer], [depth], DTYPES)) for depth in DEPTHS]
        if any(cells):
            lines.append(
                f"| {name}{results.version(package)}, {how} | {' | '.join(c or '–' for c in cells)} |"
            )
    lines += ["", "| | |", "|---|---|"]
    for row in OTHERS:
        cell = _cell(results, row.figures, row.as_text)
        if cell:
            lines.append(f"| {row.what} | {cell}{row.unit} |")
    return "\n".join(
        [
            *lines,
            "",
            f"Medians of interleaved rounds in one process, in seconds of the processor; {results.machine}.",
            "",
        ]
    )


def _cell(results: Results, figures: Sequence[Figure], as_text: Callable[[float], str] = _times) -> str:
    """The figures side by side; nothing if none was measured."""
    values = [results[figure] for figure in figures]
    for figure, value in zip(figures, values, strict=True):
        if math.isnan(value):
            print(f"not measured: {figure.benchmark}{figure.params or ''}", file=sys.stderr)
    if all(map(math.isnan, values)):
        return ""
    return " / ".join("–" if math.isnan(value) else as_text(value) for value in values)


def measure() -> None:
    """Run the benchmarks of the tables with asv, and let it keep the results under the current commit."""
    needed = {FULL_WIDTH} | {figure.benchmark for row in OTHERS for figure in row.figures}
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=BENCH, check=True, capture_output=True, text=True)

    def asv(*arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "asv", *arguments], cwd=BENCH, check=True)

    asv("machine", "--yes")
    here = ["-E", f"existing:{sys.executable}", "--set-commit-hash", head.stdout.strip()]
    asv("run", *here, "--show-stderr", "--bench", f"^({'|'.join(sorted(needed))})($|\\()")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true", help="run the benchmarks of the tables first")
    if parser.parse_args().measure:
        measure()
    text = README.read_text(encoding="utf8")
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"README.md has no lines {BEGIN.strip()} and {END.strip()} in this order")
    README.write_text(f"{before}{BEGIN}\n{tables(Results())}\n{END}{after}", encoding="utf8")


if __name__ == "__main__":
    main()
