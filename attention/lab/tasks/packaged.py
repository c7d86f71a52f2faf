"""Data that come in a package of their own, which the extra `tasks` installs."""


def missing(name: str, error: ModuleNotFoundError) -> str:
    """What to say where the package is not installed.

    Args:
      name: of the task.
      error: what its import raised.
    """
    return (
        f"name={name!r}: its data are in the package {error.name}, which is not installed; the"
        " extra 'tasks' has it: pip install -e '.[tasks]'"
    )
