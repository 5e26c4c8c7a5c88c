"""Placeholders in values: ``{$NAME}`` for environment variables, ``{name}`` for what a run is about.

Inserted values are never searched for mistakes: a password may contain braces, and no error may quote a part of it.
"""

from __future__ import annotations

import getpass
import os
import re
from typing import TYPE_CHECKING, Any

from pipedag_airflow.config.source import KeyPath, dotted
from pipedag_airflow.errors import PlaceholderError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ENV = re.compile(r"\{\$([A-Za-z_][A-Za-z0-9_]*)\}")
_NAME = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


def expand_env(value: Any, path: KeyPath, place: str) -> Any:
    """Insert environment variables into every text of a value.

    Args:
        value: A text, or maps and lists of texts; anything else stays as it is.
        path: The path of the key that holds the value.
        place: The file and the section, for the error message.

    Returns:
        A new value of the same shape.

    Raises:
        PlaceholderError: If a variable is not set.
    """
    if isinstance(value, dict):
        return {key: expand_env(item, (*path, str(key)), place) for key, item in value.items()}
    if isinstance(value, list):
        return [expand_env(item, (*path, str(index)), place) for index, item in enumerate(value)]
    if isinstance(value, str):
        return ENV.sub(lambda match: _variable(match[1], path, place), value)
    return value


def _variable(name: str, path: KeyPath, place: str) -> str:
    if name in os.environ:
        return os.environ[name]
    raise PlaceholderError(
        f"{place}: {dotted(path)} contains {{${name}}}, but the environment variable {name} is not set. "
        "Set it for every process that runs tasks (with Airflow: scheduler, DAG processor, workers, triggerer)."
    )


def expand_names(text: str, template: str, names: Mapping[str, Callable[[], str]], path: KeyPath, place: str) -> str:
    """Insert values for ``{name}`` placeholders.

    Args:
        text: The text after its environment variables were inserted.
        template: The text as the configuration has it; only its own placeholders must all have a value.
        names: What gives the value of each known name.
        path: The path of the key that holds the text.
        place: The file and the section, for the error message.

    Returns:
        The text with the values.

    Raises:
        PlaceholderError: If the template has a placeholder of an unknown name.
    """
    for name in _NAME.findall(template):
        if name not in names:
            known = ", ".join(f"{{{known}}}" for known in sorted(names))
            raise PlaceholderError(
                f"{place}: {dotted(path)} contains {{{name}}}, which has no value here. "
                f"Known: {known}; an environment variable is written {{$NAME}}."
            )
    return _NAME.sub(lambda match: names[match[1]]() if match[1] in names else match[0], text)


def user_name() -> str:
    """Give the name of the user who runs this process.

    Returns:
        The value of ``{username}``.

    Raises:
        PlaceholderError: If the process has no user name, as in some containers.
    """
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError) as error:
        message = "{username} has no value: this process runs without a user name. Set the environment variable USER."
        raise PlaceholderError(message) from error
