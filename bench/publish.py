"""How long readers wait for a publish, with either technique: python bench/publish.py.

A stage of 100 small tables, all of them new in each of several generations, on PostgreSQL, while a reader in a process
of its own counts the rows of one table after the other. What counts is the longest query that overlaps a publish;
beside it stands the longest one in a stretch of the same length just before it, in which nothing was published.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import sqlalchemy as sa
from support.postgres import server
from support.side import OURS, configuration

from pipedag_airflow import Flow, Stage, Table, materialize
from pipedag_airflow.backend.lock import Owner
from pipedag_airflow.run.begin import begin
from pipedag_airflow.run.execute import execute
from pipedag_airflow.run.publish import publish
from pipedag_airflow.run.session import RunSession

TABLES, PUBLISHES = 100, 8
STAGE = "data"


@materialize(lazy=True)
def table(number: int, version: int) -> Table[Any]:
    """Return a small table."""
    return Table(sa.text(f"SELECT n + {version} AS n FROM generate_series(1, 100) AS n"), f"t_{number}")


def flow_of(version: int) -> Flow:
    """Return the flow."""
    with Flow("publish") as flow, Stage(STAGE):
        for number in range(TABLES):
            table(number, version)
    return flow


def published(config: Any, version: int) -> tuple[float, float]:
    """Make all tables anew, and return when their publish began and when it ended."""
    session = RunSession(
        flow_of(version), config, Owner.of_run(f"run {version}"), engine="bench", is_over=lambda lease: True
    )
    begin(session, STAGE)
    for node in session.flow.tasks:
        execute(session, node)
    time.sleep(1)  # the stretch in which nothing is published
    start = time.time()
    publish(session, STAGE)
    return start, time.time()


def longest(queries: list[tuple[float, float]], start: float, end: float) -> float:
    """Return the milliseconds of the longest query that overlaps a stretch of time."""
    return max(seconds for begun, seconds in queries if begun < end and begun + seconds > start) * 1000


def main() -> int:
    """Print a table for each technique."""
    for technique in ("schema_swap", "read_views"):
        measure(technique)
    return 0


def measure(technique: str) -> None:
    """Print the table of a technique."""
    with server() as postgres, postgres.database() as url:
        config = configuration(OURS, url, technique)
        published(config, 0)
        command = [sys.executable, "-m", "support.reader", url, *(f"{STAGE}.t_{number}" for number in range(TABLES))]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parent, env=os.environ
        ) as reader:
            stretches = [published(config, version) for version in range(1, PUBLISHES + 1)]
            queries = json.loads(reader.communicate()[0])
    took = [(end - start) * 1000 for start, end in stretches]
    waited = [longest(queries, start, end) for start, end in stretches]
    before = [longest(queries, start - (end - start), start) for start, end in stretches]
    print(f"{TABLES} tables, {PUBLISHES} publishes by {technique}, {len(queries):,} queries; milliseconds")
    print("                                 median    maximum")
    for what, values in (("publish", took), ("longest query during it", waited), ("longest query before it", before)):
        print(f"  {what:26} {median(values):10.1f} {max(values):10.1f}")


if __name__ == "__main__":
    sys.exit(main())
