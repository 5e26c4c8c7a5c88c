"""What nobody needs any more is removed, outside of the publish transaction."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pipedag_airflow.backend.metadata import GenerationRecord, GenerationState, ObjectKind
from pipedag_airflow.errors import PipedagError

if TYPE_CHECKING:
    from pipedag_airflow.run.session import RunSession

__all__ = ["collect_garbage"]

log = logging.getLogger(__name__)


def collect_garbage(session: RunSession, stage: str) -> None:
    """Drop the schemas and blobs of generations beyond the number that is kept, where nothing refers to them.

    A failure is logged and tried again after the next publish: the data that readers see do not depend on it.
    """
    try:
        with session.store.transaction() as transaction:
            generations = transaction.metadata.generations(stage=stage)
            live = transaction.metadata.stages([stage])[stage].live
            old = _old(generations, live, session.config.generations_to_keep)
            if not old:
                return
            unused = transaction.metadata.drop_generations(stage, [record.number for record in old])
            # A generation that changed nothing has made nothing.
            made = [record.number for record in old if record.state is not GenerationState.UNCHANGED]
            schemas = {session.store.generation_schema(stage, number) for number in made}
            schemas -= transaction.metadata.containers(stage)
            for schema in sorted(schemas):
                transaction.drop_generation_schema(schema)
        for kind, location in sorted(unused):
            if kind is ObjectKind.BLOB:
                session.blobs.drop(location)
    except PipedagError as error:
        log.warning("Stage %s: old generations could not be removed, the next publish tries again: %s", stage, error)


def _old(generations: list[GenerationRecord], live: int | None, keep: int) -> list[GenerationRecord]:
    """Return the generations that are not needed.

    Those are the published and the unchanged ones but for the last few, and all others before the live one: what an
    abandoned generation before the live one had made is either carried over or obsolete.
    """

    def last(state: GenerationState) -> list[int]:
        return [record.number for record in generations if record.state is state][-keep:]

    kept = {live, *last(GenerationState.PUBLISHED), *last(GenerationState.UNCHANGED)}
    closed = (GenerationState.PUBLISHED, GenerationState.UNCHANGED)
    return [
        record
        for record in generations
        if not record.dropped and record.number not in kept and (record.state in closed or record.number < (live or 0))
    ]
