"""Dates and times as JSON: they come back with the zone that they went in with."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from typing import Any

from pipedag_airflow.errors import CacheError, UnsupportedValueError

__all__ = ["decode_time", "encode_time", "is_time_tag"]

_KINDS: dict[type, str] = {dt.datetime: "datetime", dt.date: "date", dt.time: "time", dt.timedelta: "timedelta"}
_PARSED = {"datetime": dt.datetime.fromisoformat, "date": dt.date.fromisoformat, "time": dt.time.fromisoformat}


def is_time_tag(tag: str) -> bool:
    """Say whether a tag stands for one of the types of this module."""
    return tag in _KINDS.values()


def encode_time(value: Any, where: str) -> tuple[str, dict[str, Any]] | None:
    """Return the tag and the content of a date, time or time span; None for anything else.

    Raises:
        UnsupportedValueError: if its zone could not be found again. With nothing but its offset it would be another
            time in another season.
    """
    kind = _KINDS.get(type(value))
    if kind is None:
        return None
    if isinstance(value, dt.timedelta):
        return kind, {"v": [value.days, value.seconds, value.microseconds]}
    if not isinstance(value, (dt.datetime, dt.time)):
        return kind, {"v": value.isoformat()}
    fold = {"fold": 1} if value.fold else {}
    zone = value.tzinfo
    if zone is None or isinstance(zone, dt.timezone):
        return kind, {"v": value.isoformat(), **fold}
    if isinstance(zone, zoneinfo.ZoneInfo) and zone.key is not None and _known_zone(zone.key) is not None:
        return kind, {"v": value.replace(tzinfo=None).isoformat(), "zone": zone.key, **fold}
    raise UnsupportedValueError(
        f"{where} is {value!r}, whose zone has no name by which zoneinfo finds it again, and is no datetime.timezone. "
        'Use zoneinfo.ZoneInfo("Europe/Berlin") or a datetime.timezone.'
    )


def decode_time(tag: str, node: dict[str, Any], where: str) -> Any:
    """Return what :func:`encode_time` encoded.

    Raises:
        CacheError: if this machine does not know the time zone.
    """
    if tag == "timedelta":
        days, seconds, microseconds = node["v"]
        return dt.timedelta(days, seconds, microseconds)
    value: Any = _PARSED[tag](node["v"])
    if "zone" in node:
        value = value.replace(tzinfo=_zone(node["zone"], where))
    return value.replace(fold=1) if node.get("fold") else value


def _zone(key: str, where: str) -> zoneinfo.ZoneInfo:
    zone = _known_zone(key)
    if zone is None:
        raise CacheError(
            f"{where} is or holds a time in the zone {key!r}, which this machine does not know. Install the package "
            "tzdata, or let the task run again."
        )
    return zone


def _known_zone(key: str) -> zoneinfo.ZoneInfo | None:
    try:
        return zoneinfo.ZoneInfo(key)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):  # also for a key that is a path, or a folder
        return None
