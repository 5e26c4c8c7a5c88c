"""Blob stores: where Python objects that are no tables are kept."""

from __future__ import annotations

from pipedag_airflow.backend.blob.base import BlobStore
from pipedag_airflow.backend.blob.file import FileBlobStore
from pipedag_airflow.backend.blob.none import NoBlobStore

__all__ = ["BlobStore", "FileBlobStore", "NoBlobStore"]
