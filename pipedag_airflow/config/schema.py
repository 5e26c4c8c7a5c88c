"""Which keys pipedag.yaml may have, where, and of what type."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from typing import Any

import yaml
from attrs import field, frozen

from pipedag_airflow.config.cache_validation import CacheValidationMode
from pipedag_airflow.config.placeholders import ENV, expand_env
from pipedag_airflow.config.source import KeyPath, Source, dotted
from pipedag_airflow.core.airflow_settings import REFUSED
from pipedag_airflow.core.naming import suggest
from pipedag_airflow.errors import ConfigError

Problem = tuple[KeyPath, str]


@frozen
class Leaf:
    """A key with a value.

    Attributes:
        expected: What may stand there, in words for an error message.
        accepts: Whether a value is right.
        shown: Whether the message shows what is there instead; in a map for whatever users like it may be a password.
    """

    expected: str
    accepts: Callable[[Any], bool]
    shown: bool = True

    def problems(self, value: object, path: KeyPath) -> Iterator[Problem]:
        """Say what is wrong with a value."""
        # "{$NAME}" alone may become a number or a truth value; that is checked when its value is known.
        pending = isinstance(value, str) and ENV.fullmatch(value)
        if not pending and not self.accepts(value):
            found = _show(value) if self.shown else f"a {type(value).__name__}"
            yield path, f"expected {self.expected}, found {found}"

    def converted(self, value: Any, template: object, path: KeyPath, place: str) -> Any:
        """Turn the text of an environment variable into the type of this key."""
        if self.accepts(value):
            return value
        parsed = _scalar(value)
        if self.accepts(parsed):
            return parsed
        # The value itself is not shown: people keep secrets in environment variables.
        problem = f"expected {self.expected}, but the value of {template!r} is something else"
        raise ConfigError(f"{place}: {dotted(path)}: {problem}.")


@frozen
class Keys:
    """A map with a fixed set of keys.

    Attributes:
        keys: What each key may hold.
        hint: What to add to the message about an unknown key.
        private: Whether keys that start with an underscore are ignored; they are where YAML anchors live.
        refused: What to say about unknown keys that people may have reason to expect.
    """

    keys: Mapping[str, Node]
    hint: str = ""
    private: bool = False
    refused: Mapping[str, str] = field(factory=dict)

    def problems(self, value: object, path: KeyPath) -> Iterator[Problem]:
        """Say what is wrong with a map and everything below it."""
        if not isinstance(value, Mapping):
            yield path, f"expected a map, found a {type(value).__name__}"
            return
        for key, item in value.items():
            here = (*path, str(key))
            if self.private and str(key).startswith("_"):
                continue
            if key not in self.keys:
                yield here, self._unknown(str(key))
            elif item is not None:
                yield from self.keys[key].problems(item, here)

    def _unknown(self, key: str) -> str:
        advice = _FORMER_KEYS.get(key) or self.refused.get(key) or suggest(key, self.keys)
        return f"unknown key {key!r}; {advice}{self.hint}"

    def converted(self, value: Any, template: Any, path: KeyPath, place: str) -> Any:
        """Convert all values of the map."""
        result = {}
        for key, item in value.items():
            node = self.keys[key]
            if not isinstance(node, Names):  # named sections are converted one by one, when they are used
                result[key] = node.converted(item, template[key], (*path, key), place)
        return result


@frozen
class Names:
    """A map from names that the user chose to maps of one kind."""

    of: Node

    def problems(self, value: object, path: KeyPath) -> Iterator[Problem]:
        """Say what is wrong with a map and everything below it."""
        if not isinstance(value, Mapping):
            yield path, f"expected a map, found a {type(value).__name__}"
            return
        for key, item in value.items():
            here = (*path, str(key))
            if not isinstance(key, str):
                yield here, f"a name must be text, found {_show(key)}; put it in quotes"
            elif item is not None:
                yield from self.of.problems(item, here)


Node = Leaf | Keys | Names

_METADATA_ADVICE = (
    "remove it: the metadata are in the database of the tables, and published in one transaction with them"
)

# Keys that configurations of pydiverse.pipedag may have and ours do not.
_FORMER_KEYS = {
    "disable_kroki": "remove it: no Kroki server is ever contacted unless kroki_url names one",
    "metadata_store": _METADATA_ADVICE,
    "metadata_table_store": _METADATA_ADVICE,
    "visualization": "remove it: what groups look like is not configured",
}


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _words(*words: str) -> Leaf:
    return Leaf("one of " + ", ".join(words), lambda value: isinstance(value, str) and value.lower() in words)


def _count(least: int) -> Leaf:
    return Leaf(
        f"a whole number of at least {least}",
        lambda value: isinstance(value, int) and _number(value) and value >= least,
    )


def _class_path(value: object) -> bool:
    return isinstance(value, type) or (isinstance(value, str) and bool(value))


_TEXT = Leaf("text (put it in quotes)", lambda value: isinstance(value, str))
_NAME = Leaf("text that is not empty (put it in quotes)", lambda value: isinstance(value, str) and value != "")
_BOOL = Leaf("true or false", lambda value: isinstance(value, bool))
_TEXTS = Leaf(
    "a list of texts", lambda value: isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
)
_MAP = Leaf("a map", lambda value: isinstance(value, Mapping), shown=False)
_ANY = Leaf("anything", lambda _: True)
_DATE = Leaf("a date, such as 2024-01-31", lambda value: isinstance(value, str | date))
_CLASS = Leaf("the name or dotted path of a class", _class_path)
_SECONDS = Leaf("a number of seconds of at least 0", lambda value: _number(value) and value >= 0)
_SOME_SECONDS = Leaf("a number of seconds above 0", lambda value: _number(value) and value > 0)

_ARGS_HINT = "; arguments of the class belong under 'args'"


def _component(**more: Node) -> Keys:
    return Keys({"class": _CLASS, "args": _MAP, **more}, hint=_ARGS_HINT)


_TABLE_STORE: dict[str, Node] = {"hook_args": _MAP}
_TABLE_STORE["local_table_cache"] = _component(store_input=_BOOL, store_output=_BOOL, use_stored_input_as_cache=_BOOL)

_OPERATOR: dict[str, Node] = {
    "depends_on_past": _BOOL,
    "docs_url": _NAME,
    "email": _ANY,
    "email_on_failure": _BOOL,
    "email_on_retry": _BOOL,
    "execution_timeout": _SOME_SECONDS,
    "executor": _NAME,
    "executor_config": _MAP,
    "max_active_tis_per_dag": _count(1),
    "max_active_tis_per_dagrun": _count(1),
    "max_retry_delay": _SOME_SECONDS,
    "owner": _TEXT,
    "pool": _NAME,
    "pool_slots": _count(1),
    "priority_weight": _count(1),
    "queue": _NAME,
    "retries": _count(0),
    "retry_delay": _SECONDS,
    "retry_exponential_backoff": Leaf("a number of at least 0", lambda value: _number(value) and value >= 0),
    "run_as_user": _NAME,
}

#: What the section ``airflow`` says of single stages and tasks.
AIRFLOW_NAMED = {
    "stages": Keys(
        {
            **_OPERATOR,
            "doc_md": _TEXT,
            "granularity": _words("task", "stage"),
            "group_display_name": _NAME,
            "tooltip": _TEXT,
            "ui_color": _NAME,
            "ui_fgcolor": _NAME,
        },
        refused=REFUSED,
    ),
    "tasks": Keys({**_OPERATOR, "doc_md": _TEXT, "task_display_name": _NAME}, refused=REFUSED),
}

AIRFLOW = Keys(
    {
        **_OPERATOR,
        "access_control": _MAP,
        "catchup": _BOOL,
        "dag_display_name": _NAME,
        "dagrun_timeout": _SOME_SECONDS,
        "deadline": Keys({"interval": _SOME_SECONDS, "callback": _NAME, "kwargs": _MAP}),
        "default_args": _MAP,
        "description": _TEXT,
        "doc_md": _TEXT,
        "end_date": _DATE,
        "granularity": _words("task", "stage", "flow"),
        "instance": _NAME,
        "is_paused_upon_creation": _BOOL,
        "max_active_runs": _count(1),
        "max_active_tasks": _count(1),
        "max_consecutive_failed_dag_runs": _count(0),
        "owner_links": _MAP,
        "params": _MAP,
        "schedule": _ANY,
        "split": _words("stage"),
        "start_date": _DATE,
        "tags": _TEXTS,
        **{key: Names(node) for key, node in AIRFLOW_NAMED.items()},
    },
    refused=REFUSED,
)

_ATTRIBUTES: dict[str, Node] = {
    "instance_id": _NAME,
    "table_store": _component(table_store_connection=_NAME, **_TABLE_STORE),
    "blob_store": _component(blob_store_connection=_NAME),
    "lock_manager": _component(),
    "orchestration": _component(),
    "stage_commit_technique": _words("schema_swap", "read_views"),
    "dependents": _words("repoint", "fail"),
    "commit_wait_seconds": _SECONDS,
    "commit_consistency": _words("strict", "available"),
    "fail_fast": _BOOL,
    "strict_result_get_locking": _BOOL,
    "per_user_template": _NAME,
    "network_interface": _NAME,
    "kroki_url": _TEXT,
    "auto_table": _TEXTS,
    "auto_blob": _TEXTS,
    "attrs": _MAP,
    "ignore_task_version": _BOOL,
    "cache_validation": Keys(
        {"mode": _words(*CacheValidationMode), "disable_cache_function": _BOOL, "ignore_task_version": _BOOL}
    ),
    "generations_to_keep": _count(1),
    "lease_seconds": _SOME_SECONDS,
    "wait_seconds": _SECONDS,
    "begin_query_seconds": _SECONDS,
    "airflow": AIRFLOW,
    "tags": _ANY,
    "stage_tags": _ANY,
}

SECTION = Keys({**_ATTRIBUTES, "technical_setup": _NAME})

FILE = Keys(
    {
        "name": _NAME,
        "strict_instance_lookup": _BOOL,
        "table_store_connections": Names(_component(**_TABLE_STORE)),
        "blob_store_connections": Names(_component()),
        "technical_setups": Names(Keys(_ATTRIBUTES)),
        "instances": Names(SECTION),
        "flows": Names(Keys({**SECTION.keys, "instances": Names(SECTION)})),
    },
    private=True,
)

DEFAULTS: Mapping[str, Any] = {
    "instance_id": "pipeline",
    "stage_commit_technique": "schema_swap",
    "dependents": "repoint",
    "commit_wait_seconds": 600,
    "commit_consistency": "strict",
    "fail_fast": False,
    "strict_result_get_locking": True,
    "per_user_template": "{id}_{username}",
    "network_interface": "127.0.0.1",
    "auto_table": [],
    "auto_blob": [],
    "attrs": {},
    "generations_to_keep": 20,
    "lease_seconds": 60,
    "wait_seconds": 0,
    "begin_query_seconds": 20,
}


def validate(data: object, source: Source) -> None:
    """Refuse a configuration that has keys or values it must not have.

    Args:
        data: The whole configuration as read from YAML.
        source: Where it comes from.

    Raises:
        ConfigError: With one line for each problem: file, line, dotted path, what is wrong, what is right.
    """
    found = [f"{source.where(path)}: {text}" for path, text in FILE.problems(data, ())]
    if found:
        raise ConfigError("\n".join(found))


def with_env(section: dict[str, Any], node: Keys, place: str, path: KeyPath = ()) -> dict[str, Any]:
    """Insert environment variables, and give each value the type that its key asks for.

    Args:
        section: A valid section.
        node: What the section may hold.
        place: The file and the section, for error messages.
        path: The path of the section, for error messages.

    Returns:
        A new section; where ``{$NAME}`` is the whole value, it may have become a number or a truth value.

    Raises:
        PlaceholderError: If a variable is not set.
        ConfigError: If the value of a variable is not what its key expects.
    """
    result: dict[str, Any] = node.converted(expand_env(section, path, place), section, path, place)
    return result


def _scalar(value: object) -> object:
    """Read a text as YAML would, so that an environment variable may say 60 or true."""
    try:
        return yaml.safe_load(value) if isinstance(value, str) else value
    except yaml.YAMLError:
        return value


def _show(value: object) -> str:
    """Show a value in an error message without the login of a URL, and containers by their kind alone."""
    if isinstance(value, Mapping):
        return f"a map with {len(value)} keys"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    text = re.sub(r"://.*@", "://***@", repr(value), flags=re.DOTALL)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"
