"""Tables change their place without being copied: what a publish asks of a database that can do so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from pipedag_airflow.backend.metadata import Place
    from pipedag_airflow.backend.table.sql.ddl import CreateView

__all__ = ["Move", "Relocation"]


@attrs.frozen
class Move:
    """A table or view that goes from one place to another."""

    source: Place
    target: Place


@attrs.frozen
class Relocation:
    """What moves when a stage is published, in this order.

    Args:
        schema: Where readers look.
        archive: Where goes what they no longer see.
        leaving: From ``schema`` to ``archive``; what is not there any more is passed over.
        arriving: From elsewhere to ``schema``.
        staying: What readers see in ``schema`` before and after. It is locked like what leaves: a transaction that has
            begun to read the stage reads one generation to its end.
        made: Views in ``schema`` that are made when all have moved.
        obsolete: Places in ``archive`` of what has left and is needed by nobody: views that showed tables elsewhere.
        repoint: Whether views that others have built on what leaves are to read what arrives under its name; else
            such views stop the publish.
        waits: Whether to wait until nobody holds what leaves. If not, ``schema`` itself becomes ``archive``, and what
            arrives and stays comes to a new one: readers keep what they hold, and may see both generations in turn.
    """

    schema: str
    archive: str
    leaving: tuple[Move, ...]
    arriving: tuple[Move, ...]
    staying: tuple[Place, ...] = ()
    made: tuple[CreateView, ...] = ()
    obsolete: tuple[Place, ...] = ()
    repoint: bool = True
    waits: bool = True
