"""``pipedag-airflow locks``: who holds which stage; ``pipedag-airflow locks break STAGE``: take one away."""

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
    locks = commands.add_parser("locks", help="say which run holds which stage, or take a stage away from a run")
    locks.set_defaults(run=_list, flow_file=None, flow=None, instance=None)
    actions = locks.add_subparsers(title="actions", metavar="ACTION")
    listing = actions.add_parser("list", help="list the stages that are held (the default)")
    add_options(listing)
    listing.set_defaults(run=_list)
    breaking = actions.add_parser(
        "break", help="take a stage away from the run that holds it, which can then no longer publish it"
    )
    breaking.add_argument("stage", metavar="STAGE", help="name of the stage")
    add_options(breaking)
    breaking.set_defaults(run=_break)


def _list(arguments: argparse.Namespace) -> int:
    from pipedag_airflow.errors import PipedagError
    from pipedag_airflow.run.leases import list_leases

    try:
        lines = list_leases(find_context(arguments))
    except PipedagError as error:
        sys.stderr.write(f"pipedag-airflow: {error}\n")
        return 1
    sys.stdout.write("\n".join(lines or ["No stage is held."]) + "\n")
    return 0


def _break(arguments: argparse.Namespace) -> int:
    from pipedag_airflow.errors import PipedagError
    from pipedag_airflow.run.leases import break_lease

    try:
        sys.stdout.write(break_lease(find_context(arguments), arguments.stage) + "\n")
    except PipedagError as error:
        sys.stderr.write(f"pipedag-airflow: {error}\n")
        return 1
    return 0
