"""What a commit and a rollback have in common: readers see another generation, and everything that asks knows it."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from pipedag_airflow.backend.metadata import GenerationState, Message, ObjectKind
from pipedag_airflow.core.fingerprint import fingerprint
from pipedag_airflow.errors import StoreError
from pipedag_airflow.run.moves import move_tables
from pipedag_airflow.run.publication import moves_tables, tables_of
from pipedag_airflow.run.views import show_views

if TYPE_CHECKING:
    from pipedag_airflow.backend.blob import BlobStore
    from pipedag_airflow.run.publication import Publication

__all__ = ["announce", "link_blobs", "log_changes", "point_live", "switch_tables"]

log = logging.getLogger(__name__)


def switch_tables(publication: Publication) -> None:
    """Let readers see the tables of this generation; tables that did not change are not touched."""
    publication.before = tables_of(publication.live_rows.values())
    publication.after = tables_of(publication.rows.values())
    publication.transaction.limit_lock_wait()
    if moves_tables(publication.config):
        move_tables(publication)
    else:
        show_views(publication)


def point_live(publication: Publication) -> None:
    """Make this generation the live one, for everything that asks the metadata."""
    metadata = publication.transaction.metadata
    metadata.close_generation(publication.stage, publication.number, GenerationState.PUBLISHED)
    metadata.point_live(publication.stage, publication.number)


def announce(publication: Publication) -> None:
    """Put what changed into the outbox."""
    # The mark of the content changes whenever the data may have changed; of a lazy task's frame it is their hash.
    marks = {name: table.facts.get("content", table.cache_key) for name, table in publication.after.items()}
    changed = {name: {"rows": publication.after[name].rows, "content": marks[name]} for name in publication.changed}
    payload = {
        "changed": changed,
        "removed": publication.removed,
        "content": fingerprint(json.dumps(marks, sort_keys=True)),
        "run_id": publication.run_id,
    }
    message = Message(publication.stage, publication.number, payload)
    publication.transaction.metadata.outbox.write(message)


def link_blobs(publication: Publication) -> None:
    """Refresh the links at the documented places, for people who look there; a reader goes by the metadata."""
    for stored in (stored for row in publication.rows.values() for stored in row.objects):
        if stored.kind is not ObjectKind.BLOB:
            continue
        blobs: BlobStore = publication.config.blob_store
        try:
            blobs.link(stage=publication.stage, name=stored.name, location=str(stored.location))
        except (StoreError, OSError) as error:
            log.warning("Stage %s: the link of blob %s was not refreshed: %s", publication.stage, stored.name, error)


def log_changes(publication: Publication) -> None:
    """Say what readers see now."""
    log.info("Stage %s: published generation %s", publication.stage, publication.number)
    for name in publication.changed:
        table = publication.after[name]
        log.info("Stage %s: table %s, %s rows, from %s", publication.stage, name, table.rows, table.container)
    for name in publication.removed:
        log.info("Stage %s: table %s is gone", publication.stage, name)
