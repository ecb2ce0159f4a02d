"""An experiment carried out: its dataset, its figure, and what became of its claims."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastdmf._checks import count
from fastdmf._version import __version__
from fastdmf.caching import cached
from fastdmf.datasets import ML_100K_VARIABLE, movielens_100k
from fastdmf.experiments.catalogue import EXPERIMENTS
from fastdmf.experiments.experiment import Claim, Experiment, Settings, Verdict
from fastdmf.sweep import sweep

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True, eq=False)
class Reproduction:
    """What came of an experiment.

    Attributes
    ----------
    experiment : Experiment
        What was carried out.
    dataset : xarray.Dataset
        What `sweep` returned.
    verdicts : mapping of Claim to Verdict
        In the order of the claims.
    report : str
        The text of ``claims.txt``.
    files : mapping of str to Path
        What was written, by kind: "png", "pdf", "csv", "netcdf", "claims".
    """

    experiment: Experiment
    dataset: xr.Dataset
    verdicts: Mapping[Claim, Verdict]
    report: str
    files: Mapping[str, Path]


def reproduce(
    name: str | Experiment,
    *,
    full: bool = False,
    workers: int = 1,
    out: str | os.PathLike[str] | None = None,
    seeds: int | None = None,
    optimizer: str | None = None,
    init: str | None = None,
    data: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Reproduction:
    """Compute the data of a figure, draw it, and test the claims that the paper makes of it.

    Parameters
    ----------
    name : str or Experiment
        A name in :data:`EXPERIMENTS`, or an experiment of your own.
    full : bool
        The sizes of the paper; otherwise a grid that takes less than a minute.
    workers : int
        Cells computed at a time, on threads.
    out : path-like, optional
        Folder of the files, made if it does not exist; ``NAME-quick`` or ``NAME-full`` by default.  The same
        call goes on from what it holds.
    seeds : int, optional
        Number of problems, each with a start of its own; one by default, three at full size.
    optimizer : {"flow", "paper"}, optional
        The gradient flow, or what the paper's experiments used: see `Settings`.  By default the first of
        ``experiment.optimizers``, which has those that make a difference.
    init : {"released", "paper"}, optional
        The start of the released code, or that of the paper's text: see `Settings`.  By default the first of
        ``experiment.inits``.
    data : path-like, optional
        The file ``u.data`` of MovieLens 100K, for experiments on it; by default what the environment variable
        ``FASTDMF_ML_100K`` names.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Reproduction
        The dataset, a verdict for each claim, and the files: figure (PNG, PDF), table (CSV), dataset
        (netCDF), ``claims.txt``.

    Raises
    ------
    ValueError, TypeError
        Before anything runs: for names and options that are not known, data that are missing or not
        needed, and a folder that holds a file of another sweep.
    RuntimeError
        If every cell failed.
    KeyboardInterrupt
        After Ctrl-C, when the cells under way have been kept.
    """
    experiment = _named(name)
    settings = Settings(
        _chosen(experiment, "optimizer", optimizer, experiment.optimizers),
        _chosen(experiment, "init", init, experiment.inits),
    )
    count("workers", workers)
    outside = _outside(experiment, data)
    if seeds is None:
        seeds = experiment.full_seeds if full else experiment.quick_seeds
    size = "full" if full else "quick"
    grid = {**(experiment.full if full else experiment.quick), "seed": range(count("seeds", seeds))}
    folder = Path(f"{experiment.name}-{size}" if out is None else out)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out must be a folder, but this is a file: {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    kinds = ("png", "pdf", "csv", "netcdf", "claims")
    names = [f"{experiment.name}.{suffix}" for suffix in ("png", "pdf", "csv", "nc")] + ["claims.txt"]
    files = {kind: folder / name for kind, name in zip(kinds, names, strict=True)}

    kept = {name: cached(slow, folder / "references") for name, slow in experiment.references.items()}
    trial = partial(experiment.trial, settings=settings, **kept, **outside)
    dataset = sweep(trial, grid, workers=workers, path=files["netcdf"], progress=progress)
    if "interrupted" in dataset.cell_status.values:
        raise KeyboardInterrupt(f"interrupted; the same call goes on from {files['netcdf']}")
    if "done" not in dataset.cell_status.values:
        raise RuntimeError(f"every cell failed, the first with {dataset.cell_error.values.flat[0]}")
    verdicts = {claim: claim.judge(dataset) for claim in experiment.claims}
    report = _report(experiment, dataset, verdicts, settings, size)
    files["claims"].write_text(report, encoding="utf8")
    figure = experiment.draw(dataset)
    figure.savefig(files["png"], dpi=200)
    figure.savefig(files["pdf"])
    _write_table(dataset, files["csv"])
    return Reproduction(experiment, dataset, verdicts, report, files)


def _named(name: str | Experiment) -> Experiment:
    """The experiment of a name, or one of the caller's own."""
    if isinstance(name, Experiment):
        return name
    if name not in EXPERIMENTS:
        raise ValueError(f"there is no experiment {name!r}; there are {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name]


def _chosen(experiment: Experiment, option: str, value: str | None, known: tuple[str, ...]) -> str:
    """The value of an option that the experiment knows, by default its first."""
    if value is not None and value not in known:
        raise ValueError(f"{option} of {experiment.name} must be {' or '.join(known)}, not {value!r}")
    return known[0] if value is None else value


def _outside(experiment: Experiment, data: str | os.PathLike[str] | None) -> dict[str, Any]:
    """What the trial is passed from outside of this library; it is refused before anything runs."""
    if not experiment.needs_ratings:
        if data is not None:
            raise ValueError(f"{experiment.name} needs no data: leave out {str(data)!r}")
        return {}
    file = data or os.environ.get(ML_100K_VARIABLE)
    if not file:
        raise ValueError(
            f"{experiment.name} needs MovieLens 100K, whose licence forbids redistribution: fetch ml-100k "
            f"from the GroupLens site and give the path of its u.data, as data or in {ML_100K_VARIABLE}"
        )
    if not Path(file).is_file():
        raise ValueError(f"there is no file {file}; give the path of MovieLens 100K's u.data")
    return {"ratings": partial(movielens_100k, file)}  # its place does not matter: its hash is checked


def _report(
    experiment: Experiment,
    dataset: xr.Dataset,
    verdicts: Mapping[Claim, Verdict],
    settings: Settings,
    size: str,
) -> str:
    """What was done, and each claim with its verdict."""
    how = dataset.status if "status" in dataset else dataset.cell_status
    statuses, counts = np.unique(how.values[dataset.cell_status.values == "done"], return_counts=True)
    ends = ", ".join(f"{n} {status}" for status, n in zip(statuses, counts, strict=True))
    failed = int((dataset.cell_status.values == "failed").sum())
    grid = "; ".join(
        f"{name} {', '.join(map(str, dataset[name].values))}" for name in dataset.cell_status.dims
    )
    lines = [
        f"{experiment.name}: {experiment.summary}",
        f"{experiment.paper}, {experiment.figure}",
        "",
        f"{size} size, optimizer {settings.optimizer}, init {settings.init}, fastdmf {__version__}",
        f"grid: {grid}",
        f"ends: {ends}" + (f"; {failed} cells failed, see cell_error in the netCDF file" if failed else ""),
        "",
    ]
    for k, (claim, verdict) in enumerate(verdicts.items(), start=1):
        lines += [f"{k}. {claim.text}", f"   {verdict.finding.upper()}", f"   {verdict.numbers}", ""]
    return "\n".join(lines)


def _write_table(dataset: xr.Dataset, path: Path) -> None:
    """One line for each cell, and for each place in the arrays that its trial returned."""
    cells = set(dataset.cell_status.dims)
    arrays = [name for name, x in dataset.data_vars.items() if set(x.dims) - cells]
    table = dataset.to_dataframe()
    if arrays:
        table = table.dropna(how="all", subset=arrays)  # shorter arrays are padded
    table.to_csv(path)
