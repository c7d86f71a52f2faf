"""Config files: Python files whose `get_config` returns a `ConfigDict`, to be changed and checked."""

import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from attention.lab.errors import UsageError
from attention.lab.settings import Settings, read_settings


def load(file: str, *score: str) -> ConfigDict:
    """The config that a file makes, with the score that is asked for, if one is.

    Args:
      file: path of the file.
      score: at most one: name of a score, the argument of `get_config`.

    Raises:
      UsageError: the file cannot be read or run, or makes no config; the message names it.
    """
    if not Path(file).is_file():
        raise UsageError(f"--config={file}: there is no such file; name one as configs/copy.py")
    try:
        config = runpy.run_path(file)["get_config"](*score)
    except SyntaxError as error:
        raise UsageError(f"--config: {error.filename} is not Python: {error.msg}") from None
    except Exception as error:  # it is somebody's program: anything may go wrong in it
        raise UsageError(f"--config={file}: {type(error).__name__}: {error}") from None
    if not isinstance(config, ConfigDict):
        raise UsageError(f"--config={file}: get_config() returns no ConfigDict, but {config!r}")
    return config


def change(config: ConfigDict, changes: Mapping[str, Any]) -> None:
    """Changes fields of a config, each given by its dotted path."""
    config.update_from_flattened_dict(dict(changes))


def read_config(config: ConfigDict) -> Settings:
    """The checked settings of a config.

    Raises:
      UsageError: as `read_settings`.
    """
    return read_settings(config.to_dict())
