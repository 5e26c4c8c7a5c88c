"""``pipedag-airflow history STAGE``: what readers have seen of a stage, and what can be brought back."""

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
    history = commands.add_parser("history", help="list the generations of a stage, and say which can be restored")
    history.add_argument("stage", metavar="STAGE", help="name of the stage")
    add_options(history)
    history.set_defaults(run=_history)


def _history(arguments: argparse.Namespace) -> int:
    from pipedag_airflow.errors import PipedagError
    from pipedag_airflow.run.history import show_history

    try:
        lines = show_history(find_context(arguments), arguments.stage)
    except PipedagError as error:
        sys.stderr.write(f"pipedag-airflow: {error}\n")
        return 1
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
