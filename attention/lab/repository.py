"""Where the checkout of the repository lies that this package is part of."""

from pathlib import Path

import attention

# The folder of train.py, eval.py, configs/, scripts/ and docs/. Code that starts these programs, or
# writes a page of the docs, finds them from here, whatever the working directory is.
ROOT = Path(attention.__file__).parent.parent
