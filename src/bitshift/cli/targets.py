"""Files that a verb will write, checked before it computes what it writes."""

from __future__ import annotations

from pathlib import Path

from bitshift.cli.errors import CliError


def check_target(flag: str, path: Path) -> None:
    """Refuse a ``path`` that stands in no folder, or is one; ``flag`` is where it was given."""
    if path.is_dir():
        raise CliError(f"{flag} {path}: is a directory; give a file")
    if not path.parent.is_dir():
        raise CliError(f"{flag} {path}: there is no folder {path.parent}; make it first")
