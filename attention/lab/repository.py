"""The checkout of the repository that this package lies in."""

from pathlib import Path

import attention

# Where train.py, eval.py, configs/, scripts/ and docs/ lie. Who starts them as programs of their
# own, or writes a page, finds them from here, whatever the working directory is.
ROOT = Path(attention.__file__).parent.parent
