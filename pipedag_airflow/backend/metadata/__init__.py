"""The metadata tables: the only state that the steps of a run share."""

from __future__ import annotations

from pipedag_airflow.backend.metadata.records import (
    GenerationRecord,
    GenerationState,
    ObjectKind,
    ObjectRecord,
    StageRecord,
    TaskRecord,
    TaskState,
)
from pipedag_airflow.backend.metadata.repository import MetadataRepository
from pipedag_airflow.backend.metadata.tables import MetadataTables

__all__ = [
    "GenerationRecord",
    "GenerationState",
    "MetadataRepository",
    "MetadataTables",
    "ObjectKind",
    "ObjectRecord",
    "StageRecord",
    "TaskRecord",
    "TaskState",
]
