"""Errors that a person can mend: a command shows their message alone, without a traceback."""


class UsageError(ValueError):
    """A request that cannot be met: a wrong setting, flag, file or directory."""


class TrainingError(RuntimeError):
    """Training cannot go on: every replica has failed, or the process that trains has."""
