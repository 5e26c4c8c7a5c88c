"""The ``pipedag-airflow`` command.

Each module of this package adds its commands with a function ``register``; what a command needs is imported when it
runs.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from pipedag_airflow.cli import check, demo, garbage, history, locks, rollback, run, why
from pipedag_airflow.config.hiding import hidden_secrets

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

_INTERRUPTED = 130  # what a shell reports for a command that was stopped with Ctrl-C


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Args:
        argv: The arguments without the program's name; those of the process by default.
    """
    try:
        arguments = _parser().parse_args(argv)
        with hidden_secrets():
            return int(arguments.run(arguments))
    except KeyboardInterrupt:  # what a command had started is stopped by now
        sys.stdout.write("\nInterrupted. Nothing is left running.\n")
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pipedag-airflow", description="pipedag flows on Apache Airflow.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    check.register(commands)
    demo.register(commands)
    garbage.register(commands)
    history.register(commands)
    locks.register(commands)
    rollback.register(commands)
    run.register(commands)
    why.register(commands)
    return parser
