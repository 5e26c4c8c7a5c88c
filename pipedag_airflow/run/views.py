"""READ_VIEWS: readers see views of the tables of generations, and a publish points them elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipedag_airflow.backend.metadata import ObjectKind
from pipedag_airflow.run.moves import bring_home
from pipedag_airflow.run.publication import place_of

if TYPE_CHECKING:
    from pipedag_airflow.run.publication import Publication

__all__ = ["show_views"]


def show_views(publication: Publication) -> None:
    """Point what readers see to the tables of this generation; tables that did not change are not touched."""
    transaction, store = publication.transaction, publication.store
    bring_home(publication)
    visible = set(transaction.objects([publication.schema]))
    for name, table in sorted(publication.after.items()):
        same = name in publication.before and place_of(publication.before[name]) == place_of(table)
        if table.kind is not ObjectKind.TABLE:
            if not same:
                transaction.show_definition(publication.schema, place_of(table))
        elif not same or store.shown_place(publication.stage, name) not in visible:
            transaction.show(publication.schema, name, *place_of(table), repoint=publication.repoints)
            publication.changed.append(name)
    gone = publication.before.keys() - publication.after.keys()
    for name in sorted(gone):
        if publication.before[name].kind is ObjectKind.TABLE:
            transaction.hide(publication.schema, name)
            publication.removed.append(name)
        else:
            store.hide_definition(transaction.connection, publication.schema, name)
