"""``pipedag-airflow gc [--apply]``: remove old generations, or only say what that would be."""

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
    collecting = commands.add_parser(
        "gc",
        help="list what old generations have left behind, or remove it",
        description="List the schemas, tables, blobs and metadata of generations that are not kept any more.",
    )
    collecting.add_argument("--apply", action="store_true", help="remove them (default: nothing is changed)")
    add_options(collecting)
    collecting.set_defaults(run=_collect)


def _collect(arguments: argparse.Namespace) -> int:
    from pipedag_airflow.errors import PipedagError
    from pipedag_airflow.run.cleaning import clean, show_garbage

    found = False
    try:
        for line in (clean if arguments.apply else show_garbage)(find_context(arguments)):
            found = True
            sys.stdout.write(f"{line}\n")
    except PipedagError as error:
        sys.stderr.write(f"pipedag-airflow: {error}\n")
        return 1
    if not found:
        sys.stdout.write("There is nothing to remove.\n")
    elif not arguments.apply:
        sys.stdout.write("Nothing was removed. `pipedag-airflow gc --apply` removes what is listed.\n")
    return 0
