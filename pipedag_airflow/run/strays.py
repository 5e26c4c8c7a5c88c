"""Blobs that no row describes: their task failed after it had written them, or has made something else since.

A blob is no part of a transaction, so its file stays where that of its row is rolled back, or the row is replaced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipedag_airflow.backend.metadata import ObjectKind
from pipedag_airflow.run.garbage import old_generations

if TYPE_CHECKING:
    from pipedag_airflow.backend.blob import BlobStore
    from pipedag_airflow.config import ConfigContext

__all__ = ["find_strays"]


def find_strays(config: ConfigContext, stage: str) -> list[str]:
    """Return the locations of blobs that no row describes, of generations that are not kept; nothing is changed.

    A run may be about to describe those of the other generations.

    Args:
        config: The configuration of the instance.
        stage: Name of the stage.
    """
    with config.table_store.transaction() as transaction:
        live = transaction.metadata.stages([stage])[stage].live
        generations = transaction.metadata.generations(stage=stage)
        places = transaction.retention.places(stage)
    old = old_generations(generations, live, config.generations_to_keep)
    gone = {record.number for record in generations if record.dropped or record in old}
    described = {str(place.location) for place in places if place.kind is ObjectKind.BLOB and place.stage == stage}
    blobs: BlobStore = config.blob_store
    return [location for location, number in sorted(blobs.others(stage, described).items()) if number in gone]
