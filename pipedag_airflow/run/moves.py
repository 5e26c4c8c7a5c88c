"""SCHEMA_SWAP: readers see the tables themselves, and a publish moves them in and out of the schema of the stage.

A table that is replaced goes back to the schema of the generation that was live until now, where it stays as long as
that generation is kept. A table that did not change stays where it is; so do the schema and everything that was granted
on it. Whatever moves takes its rows in the metadata along, in all generations that have it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from pipedag_airflow.backend.metadata import ObjectKind
from pipedag_airflow.backend.table.sql import ddl
from pipedag_airflow.backend.table.sql.facts import ObjectType
from pipedag_airflow.backend.table.sql.names import marked
from pipedag_airflow.backend.table.sql.relocation import Move, Relocation
from pipedag_airflow.run.publication import place_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pipedag_airflow.backend.metadata import ObjectRecord, Place
    from pipedag_airflow.run.publication import Publication

__all__ = ["bring_home", "move_tables"]


def move_tables(publication: Publication) -> None:
    """Move the tables of this generation to where readers look, and those that they replace out of there."""
    if not publication.waits:
        _copy_held(publication)
    before, after = publication.before, publication.after
    targets = {name: publication.target_of(table) for name, table in after.items()}
    staying = {target for name, target in targets.items() if place_of(after[name]) == target}
    leaving = [table for table in before.values() if _is_shown(publication, table) and place_of(table) not in staying]
    # A table that only gets another name leaves as the one, and arrives as the other.
    archived = _archived(publication, leaving)
    changed = sorted(name for name, target in targets.items() if target not in staying)
    arriving = [Move(archived.get(place_of(after[name]), place_of(after[name])), targets[name]) for name in changed]
    _relocate(publication, archived, arriving, _read_views(publication), staying=sorted(staying))
    publication.changed += [name for name in changed if _is_table(after[name])]
    publication.removed += sorted(name for name in before.keys() - after.keys() if _is_table(before[name]))


def _copy_held(publication: Publication) -> None:
    """Copy the tables that stay, but cannot be moved to a new schema because somebody reads them just now."""
    store, transaction = publication.store, publication.transaction
    held = transaction.held_tables(publication.schema)
    schema = store.generation_schema(publication.stage, publication.number)
    transaction.create_schema(schema)
    for name, table in publication.after.items():
        place = place_of(table)
        if place in held and place == store.shown_place(publication.stage, name) and not table.facts.get("view"):
            transaction.copy_table(place, (schema, place[1]))
            transaction.places.note_copy(publication.stage, publication.number, name, (schema, place[1]))
            publication.after[name] = attrs.evolve(table, container=schema)


def bring_home(publication: Publication) -> None:
    """Move the tables that readers see to where views show them: from now on views show the stage."""
    before, after = publication.before, publication.after
    there = [table for table in before.values() if _is_shown(publication, table)]
    if not there:
        return
    archived = _archived(publication, there)
    for records in (before, after):
        for name, table in records.items():
            if _is_shown(publication, table):
                schema, location = archived[place_of(table)]
                records[name] = attrs.evolve(table, container=schema, location=location)
    tables = (table for table in after.values() if _is_table(table))
    shown = {publication.target_of(table): place_of(table) for table in tables}
    places = sorted(shown.keys() & archived.keys())
    _relocate(publication, archived, [], [], [ddl.CreateView(*place, *shown[place]) for place in places])


def _relocate(
    publication: Publication,
    leaving: Mapping[Place, Place],
    arriving: Iterable[Move],
    views: Iterable[Place],
    made: Iterable[ddl.CreateView] = (),
    staying: Iterable[Place] = (),
) -> None:
    transaction, archive = publication.transaction, publication.archive
    archiving = [Move(*places) for places in leaving.items()]
    hiding = [Move(place, (archive, f"pipedag_hidden_{number}")) for number, place in enumerate(views)]
    relocation = Relocation(
        schema=publication.schema,
        archive=archive,
        leaving=(*archiving, *hiding),
        arriving=tuple(arriving),
        staying=tuple(staying),
        made=tuple(made),
        obsolete=tuple(move.target for move in hiding),
        repoint=publication.repoints,
        waits=publication.waits,
    )
    if not relocation.leaving and not relocation.arriving:
        return  # only results without tables have changed
    transaction.relocate(relocation)
    # Also of what somebody has dropped: the rows of its generation must not take what has come for it.
    transaction.places.note_moves((move.source, move.target) for move in (*archiving, *relocation.arriving))


def _read_views(publication: Publication) -> list[Place]:
    """Return the views that show tables elsewhere: what READ_VIEWS has left."""
    before = sorted(publication.before.items())
    places = [publication.target_of(table) for _, table in before if not _is_shown(publication, table)]
    there = publication.transaction.objects([publication.schema]) if places else {}
    # A table of such a name was made by hand.
    return [place for place in places if there.get(place) is ObjectType.VIEW]


def _is_shown(publication: Publication, table: ObjectRecord) -> bool:
    """Say whether a table is where readers look."""
    return table.container == publication.schema


def _is_table(stored: ObjectRecord) -> bool:
    return stored.kind is ObjectKind.TABLE


def _archived(publication: Publication, tables: Iterable[ObjectRecord]) -> dict[Place, Place]:
    """Return where goes what readers no longer see, by where it is.

    What stands there under its name, of somebody else's or of nobody's, stays; then it goes beside that. A sequence
    or a type keeps a table from having its name, too.
    """
    archive, transaction = publication.archive, publication.transaction
    defined = {(archive, label.partition(" ")[2]) for _, label in transaction.definitions([archive])}
    taken = transaction.objects([archive]).keys() | defined
    archived = {}
    for place in map(place_of, tables):
        name = place[1]
        if (archive, name) in taken:
            name = marked(name, publication.store.identifier_limit)
        archived[place] = archive, name
    return archived
