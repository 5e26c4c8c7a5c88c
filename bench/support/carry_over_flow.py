"""A stage of large tables and a small one that changes: what a change costs a package, by its documented API alone."""

from __future__ import annotations

import json
import sys
import time
from statistics import median
from typing import Any

import sqlalchemy as sa

from support.side import configuration, package
from support.sizes import database_bytes, wal_bytes

TABLES, ROWS, CHANGES = 19, 560_000, 5


def flow_of(pipedag: Any, tables: int, version: int) -> Any:
    """Return a flow of large tables, of about 55 MB each, and a small one of 1,000 rows."""

    @pipedag.materialize(lazy=True)
    def large(number: int) -> Any:
        text = "repeat('x', 50)"
        query = f"SELECT n, n * {number + 1} AS m, {text} AS t FROM generate_series(1, {ROWS}) AS n"
        return pipedag.Table(sa.text(query), f"large_{number}")

    @pipedag.materialize(lazy=True)
    def small(version: int) -> Any:
        return pipedag.Table(sa.text(f"SELECT n + {version} AS n FROM generate_series(1, 1000) AS n"), "small")

    with pipedag.Flow("carry over") as flow, pipedag.Stage("data"):
        for number in range(tables):
            large(number)
        small(version)
    return flow


def main(side: str, url: str, technique: str, tables: str) -> None:
    """Print the size of the database, and what a change of the small table costs."""
    pipedag = package(side)
    config = configuration(side, url, technique)
    # Twice, as the reference keeps what was there before the last run until the one after it.
    for _ in range(2):
        assert flow_of(pipedag, int(tables), 0).run(config=config).successful
    costs: list[dict[str, float]] = []
    size = database_bytes(url)
    for version in range(1, CHANGES + 1):
        log, before, begin = wal_bytes(url), database_bytes(url), time.perf_counter()
        assert flow_of(pipedag, int(tables), version).run(config=config).successful
        seconds = time.perf_counter() - begin
        written, grown = wal_bytes(url) - log, database_bytes(url) - before
        costs.append({"seconds": seconds, "log, kB": written / 1e3, "size, kB": grown / 1e3})
    print(json.dumps({"size": size} | {what: median(cost[what] for cost in costs) for what in costs[0]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
