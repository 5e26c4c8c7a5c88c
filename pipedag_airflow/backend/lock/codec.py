"""The stored form of the record of a stage: plain data, as JSON or the columns of a row take it."""

from __future__ import annotations

import math
from typing import Any

import attrs

from pipedag_airflow.backend.lock.lease import Lease, Owner
from pipedag_airflow.backend.lock.stage_record import StageRecord, Ticket

__all__ = ["FORMAT", "decode", "encode"]

#: Version of the layout.
FORMAT = 1


def encode(record: StageRecord) -> dict[str, Any]:
    """Return a record as plain data.

    Args:
        record: The record.

    Returns:
        What ``json.dumps`` takes and :func:`decode` gives back.
    """
    return {"format": FORMAT, **attrs.asdict(record)}


def decode(content: dict[str, Any]) -> StageRecord:
    """Return the record of plain data, checking each value: somebody else may have written it.

    Args:
        content: The data.

    Returns:
        The record.

    Raises:
        ValueError: If it was written by another version.
        TypeError: If a value has the wrong type; like KeyError and AttributeError a sign of damage.
    """
    if content["format"] != FORMAT:
        msg = f"format {content['format']!r}, this version knows {FORMAT}"
        raise ValueError(msg)
    lease = content["lease"]
    return StageRecord(
        stage=_text(content["stage"]),
        token=int(content["token"]),
        lease=None if lease is None else _lease(lease),
        tickets=tuple(
            Ticket(
                owner=_owner(ticket["owner"]),
                since=_number(ticket["since"]),
                refreshed=_number(ticket["refreshed"]),
                keeps=tuple(map(_text, ticket["keeps"])),
            )
            for ticket in content["tickets"]
        ),
    )


def _lease(content: dict[str, Any]) -> Lease:
    return Lease(
        stage=_text(content["stage"]),
        owner=_owner(content["owner"]),
        token=int(content["token"]),
        since=_number(content["since"]),
        heartbeat=_number(content["heartbeat"]),
        expires=_number(content["expires"]),
    )


def _owner(content: dict[str, Any]) -> Owner:
    pid, started, space = content["pid"], content["process_started"], content["pid_space"]
    return Owner(
        run_id=_text(content["run_id"]),
        host=_text(content["host"]),
        pid=None if pid is None else int(pid),
        process_started=None if started is None else _number(started),
        pid_space=None if space is None else _text(space),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        msg = f"expected a text, found {value!r}"
        raise TypeError(msg)
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        msg = f"expected a number, found {value!r}"
        raise TypeError(msg)
    return float(value)
