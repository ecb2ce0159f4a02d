"""All experiments by name."""

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
