"""``pipedag-airflow why STAGE.TASK``: why a task ran, or why it is valid."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

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
    why.add_argument(
        "--flow",
        type=Path,
        metavar="FILE",
        help="the flow's file, from which pipedag.yaml is looked for (default: here)",
    )
    why.add_argument("--flow-name", metavar="NAME", help="name of the flow, if pipedag.yaml has a section for it")
    why.add_argument("--instance", metavar="NAME", help="the instance of pipedag.yaml (default: the common one)")
    why.set_defaults(run=_why)


def _why(arguments: argparse.Namespace) -> int:
    from pipedag_airflow.config import PipedagConfig
    from pipedag_airflow.errors import PipedagError
    from pipedag_airflow.run.explain import explain

    folder = None if arguments.flow is None else arguments.flow.resolve().parent
    try:
        context = PipedagConfig.find(folder).get(instance=arguments.instance, flow=arguments.flow_name)
        with context.table_store.transaction() as transaction:
            sys.stdout.write(explain(transaction.metadata, arguments.task) + "\n")
    except PipedagError as error:
        sys.stderr.write(f"pipedag-airflow: {error}\n")
        return 1
    return 0
