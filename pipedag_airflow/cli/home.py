"""The folder in which ``pipedag-airflow`` keeps a local Airflow and the data of its flows."""

from __future__ import annotations

import fcntl
import shutil
from typing import IO, TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

__all__ = ["DemoHome", "DemoHomeError"]

_MARKER = ".pipedag-airflow-demo"
_MARKER_TEXT = "This folder was made by `pipedag-airflow demo`, which deletes and writes `airflow` and `data` in it.\n"


class DemoHomeError(RuntimeError):
    """A folder cannot be used as a home."""


class DemoHome:
    """A folder that carries our marker, held by one process at a time.

    Nothing is written to, let alone deleted from, a folder that has files and no marker.

    Args:
        folder: The folder; made when it is missing.

    Attributes:
        folder: The folder.
        airflow: The home of the local Airflow.
        data: Where the flows keep their data.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.airflow = self.folder / "airflow"
        self.data = self.folder / "data"
        self._marker: IO[str] | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        marker = self.folder / _MARKER
        if not marker.is_file() and any(self.folder.iterdir()):
            raise DemoHomeError(f"{self.folder} has other files in it. Choose another folder with --home.")
        marker.touch()
        self._marker = marker.open("r+", encoding="utf-8")
        try:
            fcntl.flock(self._marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._marker.close()
            raise DemoHomeError(
                f"Another pipedag-airflow is using {self.folder}. End it, or choose another folder with --home."
            ) from None
        self._marker.write(_MARKER_TEXT)
        self._marker.flush()
        self.data.mkdir(exist_ok=True)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._marker is not None:
            self._marker.close()

    def empty(self) -> None:
        """Delete what an earlier demo left, so that the next run is a first one."""
        for folder in (self.airflow, self.data):
            if folder.exists():
                shutil.rmtree(folder)
        self.data.mkdir()
