"""The metadata tables: the only state that the steps of a run share."""

from __future__ import annotations

from pipedag_airflow.backend.metadata.leases import LeaseConflictError, LeaseRepository
from pipedag_airflow.backend.metadata.outbox import Message, Outbox
from pipedag_airflow.backend.metadata.places import Place, PlaceRepository
from pipedag_airflow.backend.metadata.records import (
    GenerationRecord,
    GenerationState,
    ObjectKind,
    ObjectRecord,
    PlaceRecord,
    StageRecord,
    TaskRecord,
    TaskState,
)
from pipedag_airflow.backend.metadata.repository import FencedError, MetadataRepository
from pipedag_airflow.backend.metadata.retention import RetentionRepository
from pipedag_airflow.backend.metadata.tables import MetadataTables

__all__ = [
    "FencedError",
    "GenerationRecord",
    "GenerationState",
    "LeaseConflictError",
    "LeaseRepository",
    "Message",
    "MetadataRepository",
    "MetadataTables",
    "ObjectKind",
    "ObjectRecord",
    "Outbox",
    "Place",
    "PlaceRecord",
    "PlaceRepository",
    "RetentionRepository",
    "StageRecord",
    "TaskRecord",
    "TaskState",
]
