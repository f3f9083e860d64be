"""The one exception that the command line shows without a traceback."""

from __future__ import annotations

from pathlib import Path


class UserError(Exception):
    """Something that the user can mend.

    The message names the file, the field or id, the value, and the fix, in a few lines.
    """


def check_format(file: Path, found: int, known: int) -> None:
    """Refuse a file of a later format than this version reads.

    Raises:
        UserError: if it is one.
    """
    if found > known:
        raise UserError(
            f"{file}: has format {found}, this mrcnn reads up to {known}; install a newer mrcnn"
        )
