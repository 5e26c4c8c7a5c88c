"""The configuration that a command works on, and the options that choose it."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipedag_airflow.errors import ConfigError

if TYPE_CHECKING:
    import argparse

    from pipedag_airflow.config import ConfigContext, PipedagConfig

__all__ = ["add_options", "find_context"]

_ANY = "__any__"


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the arguments that choose a configuration.

    Args:
        command: The parser of a command.
    """
    command.add_argument(
        "flow_file",
        nargs="?",
        type=Path,
        metavar="FLOW_FILE",
        help="the flow's file, from which pipedag.yaml is looked for (default: here)",
    )
    command.add_argument("--flow", metavar="NAME", help="name of the flow (default: the flow of FLOW_FILE)")
    command.add_argument("--instance", metavar="NAME", help="the instance of pipedag.yaml (default: the common one)")


def find_context(arguments: argparse.Namespace) -> ConfigContext:
    """Return the configuration that the options mean.

    Args:
        arguments: Parsed arguments of a parser with :func:`add_options`.

    Raises:
        ConfigError: if there is none, or it cannot be used; also if it depends on the name of the flow, and that cannot
            be told from the file.
    """
    from pipedag_airflow.config import PipedagConfig

    file: Path | None = arguments.flow_file
    config = PipedagConfig.find(None if file is None else file.resolve().parent)
    flow = arguments.flow
    if flow is None and file is not None and _depends_on_flow(config):
        flow = _name_of_flow(file.resolve())
    return config.get(instance=arguments.instance, flow=flow)


def _depends_on_flow(config: PipedagConfig) -> bool:
    return bool(config.config_dict["flows"].keys() - {_ANY})


def _name_of_flow(file: Path) -> str:
    """Run the file, as a parser of Airflow's does, and return the name of the one flow that it defines."""
    from pipedag_airflow.core.flow import Flow

    choose = "Name the flow with --flow, because pipedag.yaml has sections for flows."
    sys.path.insert(0, str(file.parent))  # flows import their neighbours
    try:
        found = runpy.run_path(str(file)).values()
    except Exception as error:  # code of the user may raise anything
        raise ConfigError(f"{file} cannot be run: {type(error).__name__}: {error}. Mend it, or: {choose}") from error
    finally:
        sys.path.remove(str(file.parent))
    names = sorted({value.name for value in found if isinstance(value, Flow) and value.file == file})
    if len(names) != 1:
        what = f"the flows {', '.join(names)}" if names else "no flow in a global variable"
        raise ConfigError(f"{file} has {what}. {choose}")
    return names[0]
