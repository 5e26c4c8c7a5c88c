"""No blobs."""

from __future__ import annotations

from typing import Any, NoReturn

from pipedag_airflow.backend.blob.base import BlobStore
from pipedag_airflow.errors import NoBlobStoreError

__all__ = ["NoBlobStore"]


class NoBlobStore(BlobStore):
    """For flows without blobs: every use is an error that says what to configure."""

    def check(self) -> str:
        """Say that there is nothing to try."""
        return "this instance stores no blobs"

    def write(self, obj: Any, *, stage: str, name: str, generation: int) -> NoReturn:
        """Refuse."""
        del obj, generation
        _refuse(f"Blob {name!r} of stage {stage!r} cannot be stored")

    def read(self, location: str) -> NoReturn:
        """Refuse."""
        _refuse(f"The blob at {location!r} cannot be loaded")

    def exists(self, location: str) -> NoReturn:
        """Refuse."""
        _refuse(f"Nobody can tell whether there is a blob at {location!r}")

    def link(self, *, stage: str, name: str, location: str) -> NoReturn:
        """Refuse."""
        _refuse(f"Blob {name!r} of stage {stage!r} cannot be linked to {location!r}")

    def unlink(self, *, stage: str, name: str) -> NoReturn:
        """Refuse."""
        _refuse(f"The link to blob {name!r} of stage {stage!r} cannot be removed")

    def drop(self, location: str) -> NoReturn:
        """Refuse."""
        _refuse(f"The blob at {location!r} cannot be removed")


def _refuse(what: str) -> NoReturn:
    msg = (
        f"{what}: this instance has NoBlobStore. Set blob_store.class in pipedag.yaml to "
        f"pipedag_airflow.backend.blob.FileBlobStore and blob_store.args.base_path to a folder that all workers share."
    )
    raise NoBlobStoreError(msg)
