"""``pipedag-airflow why STAGE.TASK``: why a task ran, or why it is valid."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pipedag_airflow.cli.context import add_options, find_context

if TYPE_CHECKING:
    import argparse

__all__ = ["register"]


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command of this module.

    Args:
        commands: The commands of the parser.
    """
    why = commands.add_parser("why", help="say why a task ran the last time, or why it is valid")
    why.add_argument("task", metavar="STAGE.TASK", help="id of the task, as in the log and in Airflow")
    add_options(why)
    why.set_defaults(run=_why)


def _why(arguments: argparse.Namespace) -> int:
    from pipedag_airflow.errors import PipedagError
    from pipedag_airflow.run.explain import explain

    try:
        with find_context(arguments).table_store.transaction() as transaction:
            sys.stdout.write(explain(transaction.metadata, arguments.task) + "\n")
    except PipedagError as error:
        sys.stderr.write(f"pipedag-airflow: {error}\n")
        return 1
    return 0
