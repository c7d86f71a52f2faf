"""Writing files so that a kill leaves the old file or the new file, never half a file."""

import os
from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file under a temporary name, then renames it.

    Args:
      path: of the file.
      content: bytes, or text to write as UTF-8.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    os.replace(temporary, path)
