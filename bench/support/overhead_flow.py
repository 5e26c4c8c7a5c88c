"""A flow of tasks that do nothing, run three times: what is left is the work of the package itself."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import sqlalchemy as sa

from support.side import configuration, package

STAGES, LITERALS, LAZY = 4, 50, 25


def flow_of(pipedag: Any) -> Any:
    """Return a flow of 200 tasks with literal outputs, and 100 lazy tables that read the one before them."""

    @pipedag.materialize(version="1")
    def literal(number: int) -> int:
        return number + 1

    @pipedag.materialize(lazy=True, input_type=sa.Table)
    def first(number: int) -> Any:
        return pipedag.Table(sa.select(sa.literal(number).label("x")))

    @pipedag.materialize(lazy=True, input_type=sa.Table)
    def following(before: Any, number: int) -> Any:
        return pipedag.Table(sa.select((before.c.x + number).label("x")))

    with pipedag.Flow("overhead") as flow:
        table = None
        for stage in range(STAGES):
            with pipedag.Stage(f"stage_{stage}"):
                numbers = [literal(index) for index in range(LITERALS)]
                for index in range(LAZY):
                    number = numbers[index]
                    table = first(number) if table is None else following(table, number)
    return flow


def main(side: str, url: str) -> None:
    """Print the seconds of a first run, and of two that find nothing changed."""
    pipedag = package(side)
    config = configuration(side, url)
    seconds = []
    for _ in range(3):
        flow = flow_of(pipedag)
        begin = time.perf_counter()
        assert flow.run(config=config).successful
        seconds.append(time.perf_counter() - begin)
    print(json.dumps({"first": seconds[0], "unchanged": min(seconds[1:])}))


if __name__ == "__main__":
    main(*sys.argv[1:])
