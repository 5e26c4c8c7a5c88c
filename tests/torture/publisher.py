"""The process that publishes: python publisher.py PACKAGE MODULE...

It imports the package and the modules once and then waits for orders, one JSON object a line. Each order is carried out
by a child that is forked for it, so that a process that can be killed costs milliseconds. What happens goes to stdout,
one JSON object a line. Nothing but the public API of the package is used: it may be any that has pipedag's.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import signal
import socket
import sys
import time
from typing import Any

import pandas as pd
import sqlalchemy as sa

EVENTS = os.dup(1)
os.dup2(2, 1)  # what the package prints is not for the one who gives the orders

pipedag: Any = importlib.import_module(sys.argv[1])
for module in sys.argv[2:]:
    importlib.import_module(module)


def say(order: int, event: str, **facts: Any) -> None:
    line = json.dumps({"order": order, "event": event, "time": time.monotonic(), **facts})
    os.write(EVENTS, f"{line}\n".encode())  # at once and as a whole, also where several processes write


def flow_of(number: int, rows: int) -> Any:
    """Return a flow whose tables of stage numbers all hold that number, and those of stage derived what they read."""

    def frame(value: int) -> pd.DataFrame:
        return pd.DataFrame({"number": [value] * rows, "x": range(rows)})

    @pipedag.materialize(version="1")
    def steady() -> Any:
        return pipedag.Table(frame(0), name="steady")

    @pipedag.materialize(version=str(number))
    def one() -> Any:
        return pipedag.Table(frame(number), name="one").materialize()

    @pipedag.materialize(version=str(number), nout=2)
    def two() -> Any:
        return pipedag.Table(frame(number), name="two"), pipedag.Blob({"number": number}, name="blob")

    @pipedag.materialize(lazy=True, input_type=sa.Table)
    def three(table: Any) -> Any:
        return pipedag.Table(sa.select(table.c.number, table.c.x), name="three")

    @pipedag.materialize(version="1", input_type=sa.Table)
    def parity(table: Any) -> Any:
        return pipedag.Table(sa.select(table.c.number), name="odd" if number % 2 else "even")

    @pipedag.materialize(version="1", input_type=pd.DataFrame)
    def left(table: pd.DataFrame) -> Any:
        return pipedag.Table(table, name="left")

    @pipedag.materialize(version="1", input_type=pd.DataFrame)
    def right(table: pd.DataFrame, blob: dict[str, int]) -> Any:
        return pipedag.Table(table.assign(blob=blob["number"]), name="right")

    with pipedag.Flow("torture") as flow:
        with pipedag.Stage("numbers"):
            steady()
            first, (second, blob) = one(), two()
            three(first)
            parity(first)
        with pipedag.Stage("derived"):
            left(first)
            right(second, blob)
    return flow


def work(
    order: int, name: str, config: str, rows: int, stage: str, first: int, step: int = 0, crash_point: str = ""
) -> None:
    """Publish the stage with a first number and, if there is a step, with further ones until SIGTERM."""
    os.environ |= {"PIPEDAG_CONFIG": config, "PGAPPNAME": name, "PIPEDAG_CRASH_POINT": crash_point}
    socket.gethostname = lambda: name  # else its lease would count for as long as the process is there
    context = pipedag.PipedagConfig(config).get()
    polite = []
    signal.signal(signal.SIGTERM, lambda *_: polite.append(True))
    for number in itertools.count(first, step):
        flow = flow_of(number, rows)
        say(order, "begun", number=number)
        try:
            flow.run(flow[stage], config=context)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            say(order, "failed", number=number, error=type(error).__name__, text=text[:2000])
            time.sleep(0.1)  # the server may be away
        else:
            say(order, "published", number=number)
        if polite or not step:
            break


def main() -> None:
    orders: dict[int, int] = {}

    def reap(*_: object) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended
                say(orders.pop(pid), "ended", code=os.waitstatus_to_exitcode(status))

    signal.signal(signal.SIGCHLD, reap)
    for line in sys.stdin:
        order = json.loads(line)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
            try:
                work(**order)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        orders[child] = order["order"]
        say(order["order"], "forked", pid=child)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    os.killpg(0, signal.SIGKILL)  # whoever gives the orders is gone


if __name__ == "__main__":
    main()
