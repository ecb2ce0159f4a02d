"""The figures of the papers, each by name: data from `sweep`, figures from `plot`, claims with verdicts.

An experiment is an :class:`Experiment`, a description; :data:`EXPERIMENTS` lists all, and :func:`reproduce`
carries one out.  A researcher's own is made like those here: a trial, a grid, a figure, claims.
"""

from __future__ import annotations

import os

from fastdmf.experiments import (
    deep_completion,
    deep_dynamics,
    deep_learning_rates,
    deep_sensing,
    deep_theory,
    symmetric_additional,
    symmetric_sensing,
    symmetric_small,
    symmetric_starts,
)
from fastdmf.experiments.experiment import Claim, Experiment, Finding, Settings, Verdict
from fastdmf.experiments.reproducing import Reproduction, carry_out

__all__ = [
    "EXPERIMENTS",
    "Claim",
    "Experiment",
    "Finding",
    "Reproduction",
    "Settings",
    "Verdict",
    "reproduce",
]

_ALL = (
    deep_completion.FIG1,
    deep_completion.FIG2,
    deep_dynamics.FIG3,
    deep_dynamics.MOVIELENS_FIG3,
    deep_sensing.FIG1,
    deep_sensing.FIG2,
    deep_dynamics.SENSING_FIG3,
    deep_learning_rates.LEARNING_RATES,
    deep_theory.THEORY,
    symmetric_sensing.FIG1,
    symmetric_sensing.FIG2,
    symmetric_additional.FIG3,
    symmetric_additional.MOVIELENS_FIG3,
    symmetric_small.FIG4,
    symmetric_starts.STARTS,
)

#: All experiments by name.
EXPERIMENTS = {experiment.name: experiment for experiment in _ALL}


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
    if isinstance(name, Experiment):
        experiment = name
    elif name in EXPERIMENTS:
        experiment = EXPERIMENTS[name]
    else:
        raise ValueError(f"there is no experiment {name!r}; there are {', '.join(EXPERIMENTS)}")
    return carry_out(
        experiment,
        full=full,
        workers=workers,
        out=out,
        seeds=seeds,
        optimizer=optimizer,
        init=init,
        data=data,
        progress=progress,
    )
