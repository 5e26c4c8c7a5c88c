"""``pipedag-airflow check``: try each connection of a configuration."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from pipedag_airflow.cli.context import add_options, find_context

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from pipedag_airflow.config import ConfigContext
    from pipedag_airflow.config.redacting import Secrets

__all__ = ["register"]


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command of this module.

    Args:
        commands: The commands of the parser.
    """
    check = commands.add_parser("check", help="try each connection of pipedag.yaml; nothing is left behind in tables")
    add_options(check)
    check.set_defaults(run=_check)


def _check(arguments: argparse.Namespace) -> int:
    from pipedag_airflow.config.redacting import Secrets
    from pipedag_airflow.errors import PipedagError

    try:
        context = find_context(arguments)
    except PipedagError as error:
        sys.stderr.write(f"pipedag-airflow: {error}\n")
        return 1
    flow = "" if context.flow_name is None else f", flow {context.flow_name}"
    sys.stdout.write(f"configuration: {context.source}, instance {context.instance_name}{flow}\n")
    secrets = Secrets.of(context.config_dict)
    outcomes = [_told(name, attempt, secrets) for name, attempt in _attempts(context).items()]
    return 0 if all(outcomes) else 1


def _attempts(context: ConfigContext) -> dict[str, Callable[[], str]]:
    caches = bool(context.config_dict.get("table_store", {}).get("local_table_cache"))
    return {
        "table store": lambda: _tried(context.table_store),
        **({"table cache": lambda: _tried(context.local_table_cache)} if caches else {}),
        "blob store": lambda: _tried(context.blob_store),
        "lock manager": lambda: _tried(context.lock_manager),
        "orchestration": lambda: f"{type(context.create_orchestration_engine()).__name__} can be built",
    }


def _tried(part: Any) -> str:
    return str(part.check())


def _told(name: str, attempt: Callable[[], str], secrets: Secrets) -> bool:
    """Print what came of an attempt, in one line, and return whether it went well."""
    from pipedag_airflow.config.known_secrets import without_secrets
    from pipedag_airflow.errors import PipedagError

    try:
        outcome, well = f"ok      {attempt()}", True
    except PipedagError as error:
        outcome, well = f"FAILED  {error}", False
    except Exception as error:  # a class of somebody else's, or a driver, may raise anything
        outcome, well = f"FAILED  {type(error).__name__}: {error}", False
    line = " ".join(without_secrets(secrets.hidden(f"{name:<15}{outcome}")).splitlines())
    sys.stdout.write(f"{line}\n")
    return well
