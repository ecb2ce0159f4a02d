"""The figures of the papers, each by name: data from `sweep`, figures from `plot`, claims with verdicts.

An experiment is an :class:`Experiment`, a description; :data:`EXPERIMENTS` lists all, and :func:`reproduce`
carries one out.  A researcher's own is made like those here: a trial, a grid, a figure, claims.
"""

from __future__ import annotations

from fastdmf.experiments.catalogue import EXPERIMENTS
from fastdmf.experiments.experiment import Claim, Experiment, Finding, Settings, Verdict
from fastdmf.experiments.reproducing import Reproduction, reproduce

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
