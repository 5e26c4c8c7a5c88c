"""Finding the configuration file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pipedag_airflow.errors import ConfigNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE_NAMES = ("pipedag.yaml", "pipedag.yml")
FILE_VARIABLE = "PIPEDAG_CONFIG"


def find_file(start: Path | None = None) -> Path | None:
    """Look for the configuration file.

    ``PIPEDAG_CONFIG`` decides alone if it is set. Otherwise the first ``pipedag.yaml`` or ``pipedag.yml`` is taken
    from: the start folder and its parents, the working directory and its parents, the user's home.

    Args:
        start: The folder of the module that defines the flow.

    Returns:
        The absolute path of the file, or nothing if there is none.

    Raises:
        ConfigNotFoundError: If ``PIPEDAG_CONFIG`` leads nowhere.
    """
    named = os.environ.get(FILE_VARIABLE)
    if named:
        return file_at(Path(named).expanduser(), f"the environment variable {FILE_VARIABLE}")
    return next((file for folder in _folders(start) if (file := _file_in(folder))), None)


def file_at(path: Path, origin: str) -> Path:
    """Take a path that somebody gave: the file itself or the folder that has it.

    Args:
        path: The path.
        origin: Who gave it, for the error message.

    Returns:
        The absolute path of the file.

    Raises:
        ConfigNotFoundError: If there is no such file.
    """
    absolute = path.absolute()
    file = _file_in(absolute) if absolute.is_dir() else absolute
    if file is None:
        names = " or ".join(FILE_NAMES)
        raise ConfigNotFoundError(f"{origin} names the folder {absolute}, which has no {names}. Put one there.")
    if not file.exists():
        raise ConfigNotFoundError(
            f"{origin} names {absolute}, which does not exist. Correct the path or create the file."
        )
    return file


def _file_in(folder: Path) -> Path | None:
    return next((folder / name for name in FILE_NAMES if (folder / name).is_file()), None)


def _folders(start: Path | None) -> Iterator[Path]:
    for folder in (start, Path.cwd()):
        if folder is not None:
            yield folder.absolute()
            yield from folder.absolute().parents
    try:
        yield Path.home()
    except RuntimeError:
        return  # a process without a home, as in some containers, has no file there
