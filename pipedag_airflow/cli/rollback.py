"""``pipedag-airflow rollback STAGE [--to GENERATION]``: let readers see again what they saw before."""

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
    rollback = commands.add_parser("rollback", help="publish an old generation of a stage again")
    rollback.add_argument("stage", metavar="STAGE", help="name of the stage")
    rollback.add_argument(
        "--to",
        type=int,
        metavar="GENERATION",
        help="number of the generation, as in the history (default: the newest before the present one)",
    )
    add_options(rollback)
    rollback.set_defaults(run=_rollback)


def _rollback(arguments: argparse.Namespace) -> int:
    from pipedag_airflow.errors import PipedagError
    from pipedag_airflow.run.rollback import rollback

    try:
        report = rollback(find_context(arguments), arguments.stage, arguments.to)
    except PipedagError as error:
        sys.stderr.write(f"pipedag-airflow: {error}\n")
        return 1
    sys.stdout.write(f"{report}\n")
    return 0
