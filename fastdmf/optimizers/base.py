"""What optimizers have in common."""


class Optimizer:
    """A rule by which the factors move.  Backends know how to carry each one out."""
