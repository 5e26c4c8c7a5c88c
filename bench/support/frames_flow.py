"""A frame that is stored, and read: how long a package takes for it, by its documented API alone.

The time of one row is taken off, so that what is left is the work on the data.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pandas as pd
import polars as pl

from support.data import frame_of
from support.side import configuration, package

ROWS = 1_000_000
TYPES = {"pandas": pd.DataFrame, "polars": pl.DataFrame}
moments: dict[str, float] = {}


def writing(pipedag: Any, kind: str, rows: int) -> Any:
    """Return a flow that stores a frame, and notes when the task gave it away."""
    frame = frame_of(rows) if kind == "polars" else frame_of(rows).to_pandas()

    @pipedag.materialize(version=f"{kind} {rows}")
    def written() -> Any:
        moments["given"] = time.perf_counter()
        return pipedag.Table(frame, "big")

    with pipedag.Flow("writing") as flow, pipedag.Stage("data"):
        written()
    return flow


def reading(pipedag: Any, kind: str, rows: int) -> Any:
    """Return a flow that stores a frame, and in another stage reads it and notes when the task got it."""

    @pipedag.materialize(version=f"{rows}")
    def written() -> Any:
        moments["stored"] = time.perf_counter()
        return pipedag.Table(frame_of(rows), "big")

    @pipedag.materialize(input_type=TYPES[kind], version=None)
    def read(table: Any) -> int:
        moments["got"] = time.perf_counter()
        return len(table)

    with pipedag.Flow("reading") as flow:
        with pipedag.Stage("data"):
            table = written()
        with pipedag.Stage("use"):
            read(table)
    return flow


def seconds_to_write(side: str, url: str, kind: str, rows: int) -> float:
    """Return the time from the end of the task's function to the end of the run."""
    pipedag = package(side)
    assert writing(pipedag, kind, rows).run(config=configuration(side, url)).successful
    return time.perf_counter() - moments["given"]


def seconds_to_read(side: str, url: str, kind: str, rows: int) -> float:
    """Return the time from the start of a run in which the table is valid to the start of the task that reads it."""
    pipedag = package(side)
    assert reading(pipedag, kind, rows).run(config=configuration(side, url)).successful
    flow, moments["stored"] = reading(pipedag, kind, rows), 0.0
    begin = time.perf_counter()
    assert flow.run(config=configuration(side, url)).successful
    assert moments["stored"] == 0, "the table was not valid"
    return moments["got"] - begin


def main(side: str, url: str) -> None:
    """Print the seconds of each kind of work."""
    measures = {"write": seconds_to_write, "read": seconds_to_read}
    seconds = {
        f"{kind} {verb}": function(side, url, kind, ROWS) - function(side, url, kind, 1)
        for verb, function in measures.items()
        for kind in TYPES
    }
    print(json.dumps(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
