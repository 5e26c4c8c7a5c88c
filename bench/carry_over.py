"""What one changed table costs among large ones that did not change: python bench/carry_over.py.

A stage of 19 tables with 1 GB in all and a small one, on PostgreSQL. The small one changes: seconds, bytes written to
the server's log, and bytes by which the database grows; beside it the same for a stage of the small table alone.
"""

from __future__ import annotations

import sys
import time
from statistics import median
from typing import Any

import sqlalchemy as sa
from support.postgres import database_bytes, server, wal_bytes
from support.side import OURS, configuration

from pipedag_airflow import Flow, Stage, Table, materialize

TABLES, ROWS, CHANGES = 19, 560_000, 5


@materialize(lazy=True)
def large(number: int) -> Table[Any]:
    """Return a table of about 55 MB."""
    text = "repeat('x', 50)"
    return Table(sa.text(f"SELECT n, n * {number + 1} AS m, {text} AS t FROM generate_series(1, {ROWS}) AS n"))


@materialize(lazy=True)
def small(version: int) -> Table[Any]:
    """Return a table of 1,000 rows."""
    return Table(sa.text(f"SELECT n + {version} AS n FROM generate_series(1, 1000) AS n"), "small")


def flow_of(stage: str, tables: int, version: int) -> Flow:
    """Return a flow of large tables and the small one."""
    with Flow("carry over") as flow, Stage(stage):
        for number in range(tables):
            large(number)
        small(version)
    return flow


def change(stage: str, tables: int, url: str) -> tuple[int, dict[str, float]]:
    """Return the size of the database, and what a change of the small table costs, the median of several."""
    config = configuration(OURS, url)
    flow_of(stage, tables, 0).run(config=config)
    costs: list[dict[str, float]] = []
    size = database_bytes(url)
    for version in range(1, CHANGES + 1):
        log, before, begin = wal_bytes(url), database_bytes(url), time.perf_counter()
        flow_of(stage, tables, version).run(config=config)
        seconds = time.perf_counter() - begin
        written, grown = wal_bytes(url) - log, database_bytes(url) - before
        costs.append({"seconds": seconds, "log, kB": written / 1e3, "size, kB": grown / 1e3})
    return size, {what: median(cost[what] for cost in costs) for what in costs[0]}


def main() -> int:
    """Print the table."""
    with server() as postgres:
        with postgres.database() as url:
            size, among = change("all", TABLES, url)
        with postgres.database() as url:
            _, alone = change("alone", 0, url)
    print(f"one small table changes among {TABLES} large ones ({size / 1e9:.2f} GB), median of {CHANGES}")
    print("              among      alone   among/alone")
    for what in among:
        print(f"  {what:9} {among[what]:8.2f} {alone[what]:10.2f} {among[what] / alone[what]:13.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
