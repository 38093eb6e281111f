"""Writing a file so that its readers see the old one or the new one, and nothing in between."""

import os
import tempfile
from pathlib import Path


def replace_file(path: Path, text: str, mode: int) -> None:
    """Write a file at once or not at all, and durably.

    It keeps the owner and group of the file before it; a new one gets the group of its directory. Raises
    OSError.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            before = path.stat() if path.exists() else None
            os.fchmod(file.fileno(), mode)
            os.fchown(
                file.fileno(),
                before.st_uid if before is not None else -1,
                before.st_gid if before is not None else path.parent.stat().st_gid,
            )
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
