"""What can go wrong in ways that a person can mend, told in one line."""


class UsageError(ValueError):
    """A request that cannot be met."""


class TrainingError(RuntimeError):
    """Training cannot go on."""
