"""A bundle of DAG files that keeps the code of a run: from its first task to its last they run what it began with.

Airflow's own ``LocalDagBundle`` has no versions: the process of each task imports what is in the folder at that moment.
A run whose flow is wired differently in the middle of it fails with a ``FlowChangedError``; but a changed body of a
function would go unnoticed. See docs/airflow.md.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.dag_processing.bundles import base

from pipedag_airflow.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["SnapshotDagBundle"]

# Before Airflow 3.3 a version is a plain text.
_Version = getattr(base, "BundleVersion", str)


class SnapshotDagBundle(base.BaseDagBundle):
    """A folder of DAG files of which each state is a version: copied when it is first seen, named by its content.

    What begins with a dot is neither looked at nor copied (except ``.airflowignore``), nor are compiled modules.

    Args:
        path: The folder.
        kwargs: Arguments of Airflow's ``BaseDagBundle``.

    Example:
        ::

            [dag_processor]
            dag_bundle_config_list = [{
                "name": "flows",
                "classpath": "pipedag_airflow.provider.bundles.SnapshotDagBundle",
                "kwargs": {"path": "/opt/airflow/flows", "refresh_interval": 30}}]
    """

    supports_versioning = True

    def __init__(self, *, path: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source = Path(path)
        self._current = self.version

    def initialize(self) -> None:
        """Make the folder of the version, unless it is there.

        Raises:
            ConfigError: if it is neither there nor what the folder holds now; or if there is no folder.
        """
        if self.version is None:
            self.refresh()
        elif not self.path.is_dir() and self._snapshot() != self.version:
            raise ConfigError(
                f"Bundle {self.name!r}: version {self.version} is not in {self.versions_dir}, and {self.source} holds "
                "another one by now. Runs keep their code where all processes of Airflow share that folder, which "
                "[dag_processor] dag_bundle_storage_path names, and until Airflow removes old versions. Start another "
                "run."
            )
        super().initialize()

    def refresh(self) -> None:
        """Look at the folder, and keep a copy if its content is new.

        Raises:
            RuntimeError: if the bundle is of a given version.
            ConfigError: if there is no such folder.
        """
        if self.version is not None:
            raise RuntimeError(f"Bundle {self.name!r} stands for its version {self.version}, which does not change")
        self._current = self._snapshot()

    def get_current_version(self) -> Any:
        """Return the version: the hash of the names and contents of all files."""
        return None if self._current is None else _Version(self._current)

    @property
    def path(self) -> Path:
        """The folder of the version, from which Airflow imports."""
        return self.versions_dir / (self._current or "none")

    def _snapshot(self) -> str:
        """Keep a copy of what the folder holds, unless there is one, and return its version."""
        if not self.source.is_dir():
            raise ConfigError(f"Bundle {self.name!r}: there is no folder {self.source}")
        version = _digest(self.source)
        if (self.versions_dir / version).is_dir():
            return version
        self.versions_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.versions_dir, prefix=".") as folder:
            copy = Path(folder) / "copy"
            shutil.copytree(self.source, copy, ignore=lambda _, names: {name for name in names if not _counts(name)})
            # The folder may have changed in between: a version is what was copied.
            version = _digest(copy)
            try:
                copy.rename(self.versions_dir / version)
            except OSError:
                if not (self.versions_dir / version).is_dir():  # or else another process was faster
                    raise
        return version


def _counts(name: str) -> bool:
    return name == ".airflowignore" or not (name.startswith(".") or name == "__pycache__")


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(_files(folder)):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:20]


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = _counting(folders)
        yield from (Path(place) / name for name in _counting(names))


def _counting(names: Iterable[str]) -> list[str]:
    return [name for name in names if _counts(name)]
