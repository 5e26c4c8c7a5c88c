"""A flow whose one task waits inside its stage until it is told to go on.

Run by test_zookeeper_failures.py as a process of its own, which runs the flow with each configuration that it is sent.
It says what happens line by line; a task goes on when a line is sent.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from pipedag_airflow import Flow, PipedagConfig, Stage, Table, materialize

if TYPE_CHECKING:
    from collections.abc import Callable


def waiting_flow(name: str, inside: Callable[[], object]) -> Flow:
    """Make the flow; its table says who has made it."""

    @materialize(input_type=pl.DataFrame)
    def task() -> Table[pl.DataFrame]:
        inside()
        return Table(pl.DataFrame({"made_by": [name]}), "made")

    with Flow("waiting") as flow, Stage("s"):
        task()
    return flow


def say(*words: object) -> None:
    print(*words, flush=True)


def run(file: Path) -> None:
    def inside() -> None:
        say("inside")
        sys.stdin.readline()

    config = PipedagConfig(file).get()
    with config.lock_manager as locks:
        locks.add_listener(lambda _stage, _old, new: say("state", new.name))
        try:
            waiting_flow("first", inside).run(config=config)
        except Exception as error:
            say("failed", type(error).__name__, str(error).replace("\n", " "))
        else:
            say("succeeded")


if __name__ == "__main__":
    # Process ids say nothing about another host: only ZooKeeper can know that this process has died.
    socket.gethostname = lambda: "another-host"
    for line in sys.stdin:
        run(Path(line.strip()))
