"""Where the configs lie that come with this package, and where its other files are, if anywhere.

In a checkout of the repository, or an editable installation of one, they lie beside the package.
A wheel has the configs inside the package (`pyproject.toml` puts them there), and nothing else.
"""

from pathlib import Path

import attention

PACKAGE = Path(attention.__file__).parent
CONFIGS_IN_A_WHEEL = "lab/shipped_configs"  # within the package
IS_CHECKOUT = not (PACKAGE / CONFIGS_IN_A_WHEEL).is_dir()

CONFIGS = PACKAGE.parent / "configs" if IS_CHECKOUT else PACKAGE / CONFIGS_IN_A_WHEEL
# The folder of docs/ and runs/ for programs that write there unless they are told otherwise: the
# checkout, whatever the working directory is; without a checkout, the working directory.
ROOT = PACKAGE.parent if IS_CHECKOUT else Path()


def command(name: str) -> str:
    """What a person types to run `train` or `eval`: the script of a checkout, or what is installed.

    Args:
      name: of the command.
    """
    return f"python {name}.py" if IS_CHECKOUT else f"attention-{name}"


def install(extra: str) -> str:
    """What a person types to get the packages of an extra.

    Args:
      extra: its name.
    """
    return (
        f"pip install -e '.[{extra}]'" if IS_CHECKOUT else f"pip install 'attention-lab[{extra}]'"
    )
