"""The outbox: what a publish has to announce, written in its transaction and sent afterwards, at least once."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any

import attrs
import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipedag_airflow.backend.metadata.tables import MetadataTables

__all__ = ["Message", "Outbox"]

_CARRIER = "carrier"


@attrs.frozen
class Message:
    """A row of ``event``.

    Args:
        stage: Name of the stage that was published.
        generation: The generation that was published.
        payload: What is to be told.
        carrier: Who took it upon itself to send it, in the words of the orchestrator; None if nobody did.
    """

    stage: str
    generation: int
    payload: dict[str, Any]
    carrier: dict[str, str] | None = None


class Outbox:
    """The messages of the stages of an instance.

    Args:
        connection: A connection in a transaction.
        tables: The metadata tables.
    """

    def __init__(self, connection: sa.Connection, tables: MetadataTables) -> None:
        self.connection = connection
        self.event = tables.event

    def write(self, message: Message) -> None:
        """Put the message of a publish in, together with what nobody has begun to send of those before.

        So where nobody ever sends anything, there is one message for each stage.
        """
        waiting = [other for other in self.pending(message.stage) if other.carrier is None]
        for other in reversed(waiting):
            message = attrs.evolve(message, payload=_together(other.payload, message.payload))
        self.remove(waiting)
        created = dt.datetime.now(dt.UTC)
        values = {"stage": message.stage, "generation": message.generation, "created": created}
        self.connection.execute(sa.insert(self.event).values(**values, payload=_text(message)))

    def pending(self, stage: str) -> list[Message]:
        """Return the messages of a stage that are not known to be sent, the oldest first."""
        query = sa.select(self.event.c.generation, self.event.c.payload).where(self.event.c.stage == stage)
        rows = self.connection.execute(query.order_by(self.event.c.generation))
        found = ((row.generation, json.loads(row.payload)) for row in rows)
        return [Message(stage, generation, told, told.pop(_CARRIER, None)) for generation, told in found]

    def hand_over(self, messages: Iterable[Message], carrier: dict[str, str]) -> None:
        """Note who is about to send messages."""
        for message in messages:
            payload = _text(attrs.evolve(message, carrier=carrier))
            self.connection.execute(sa.update(self.event).where(self._is(message)).values(payload=payload))

    def remove(self, messages: Iterable[Message]) -> None:
        """Take messages out, for example because they were sent."""
        for message in messages:
            self.connection.execute(sa.delete(self.event).where(self._is(message)))

    def _is(self, message: Message) -> sa.ColumnElement[bool]:
        return (self.event.c.stage == message.stage) & (self.event.c.generation == message.generation)


def _together(earlier: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """Return what two publishes, of which the second one followed the first, have changed and removed."""
    changed = {name: facts for name, facts in earlier["changed"].items() if name not in later["removed"]}
    gone = [name for name in earlier["removed"] if name not in later["changed"]]
    return later | {"changed": changed | later["changed"], "removed": sorted({*gone, *later["removed"]})}


def _text(message: Message) -> str:
    carrier = {} if message.carrier is None else {_CARRIER: message.carrier}
    return json.dumps(message.payload | carrier)
