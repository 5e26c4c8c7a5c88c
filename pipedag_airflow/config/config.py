"""A configuration file and the contexts it describes: :class:`PipedagConfig`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

from attrs import field, frozen

from pipedag_airflow.config.cache_validation import CacheValidationMode
from pipedag_airflow.config.context import ConfigContext, StageCommitTechnique
from pipedag_airflow.config.embedded import HOME_VARIABLE, embedded_default
from pipedag_airflow.config.loading import FILE_VARIABLE, file_at, find_file
from pipedag_airflow.config.merging import (
    ANY,
    Section,
    copied,
    expanded_blocks,
    merge,
    merge_layers,
    section_layers,
    without_nulls,
)
from pipedag_airflow.config.objects import refuse_reference_classes
from pipedag_airflow.config.redacting import identity_without_secrets
from pipedag_airflow.config.resolving import Resolver
from pipedag_airflow.config.schema import AIRFLOW, AIRFLOW_NAMED, DEFAULTS, FILE, validate, with_env
from pipedag_airflow.config.source import Document, Source
from pipedag_airflow.core.naming import suggest
from pipedag_airflow.core.values import ArgumentOnly
from pipedag_airflow.errors import InstanceNotFoundError

_DEFAULT_NAME = "pipeline"


class _Default:
    """Finds the configuration when ``PipedagConfig.default`` is read, and keeps it for the process."""

    def __init__(self) -> None:
        self._found: dict[tuple[str | None, ...], PipedagConfig] = {}

    def __get__(self, instance: object, owner: type[PipedagConfig]) -> PipedagConfig:
        # What decides where to look is the key, so that a process that changes its folder is not given the old file.
        key = (os.environ.get(FILE_VARIABLE), os.environ.get(HOME_VARIABLE), str(Path.cwd()))
        if key not in self._found:
            self._found[key] = owner.find()
        return self._found[key]


@frozen(init=False)
class PipedagConfig(ArgumentOnly):
    """A configuration: the content of a file ``pipedag.yaml``, or a dictionary of the same shape.

    Relative paths in a file (a DuckDB database in ``table_store.args.url``, every ``base_path``, ``url_attrs_file``)
    are relative to the folder of the file, not to the working directory, because Airflow's processes run anywhere.
    In a dictionary they are left alone. ``{$NAME}`` stands for an environment variable in every text below
    ``instances``, ``flows`` and the named blocks; it is looked up when :meth:`get` needs the section.

    Attributes:
        raw_config: The data as they are in the file.
        config_dict: The data with the references to named blocks replaced by their content.
        path: The file; none if the configuration is a dictionary or the embedded default.
    """

    default: ClassVar[_Default] = _Default()
    """The configuration of this process: the file that is found, or else the embedded default."""

    # Maps cannot be hashed, and may hold passwords.
    raw_config: dict[str, Any] = field(repr=False, hash=False)
    config_dict: dict[str, Any] = field(repr=False, hash=False)
    path: Path | None
    _source: Source = field(repr=False, eq=False)

    def __init__(self, path: str | Path | dict[str, Any] | Document) -> None:
        """Read a configuration.

        Args:
            path: A file, a folder that has ``pipedag.yaml`` or ``pipedag.yml``, the data themselves, or data that were
                read already.

        Raises:
            ConfigNotFoundError: If there is no such file.
            ConfigError: If the file is no YAML, or has unknown keys or values of the wrong type.
            MissingBlockError: If a reference to a named block leads nowhere.
        """
        file = file_at(Path(path), "PipedagConfig") if isinstance(path, str | Path) else None
        document = Document.read(file) if file else _document(path)
        validate(document.data, document.source)
        self.__attrs_init__(
            raw_config=copied(document.data),
            config_dict=expanded_blocks(document.data, document.source),
            path=file,
            source=document.source,
        )

    @classmethod
    def find(cls, start: Path | None = None) -> PipedagConfig:
        """Find the configuration; if there is no file, give the embedded default.

        The embedded default needs no server: DuckDB and files in the folder ``PIPEDAG_HOME``, or else in ``.pipedag``
        in the start folder or the working directory.

        Args:
            start: The folder of the module that defines the flow; it and its parents are looked through first.

        Returns:
            The configuration.

        Raises:
            ConfigNotFoundError: If ``PIPEDAG_CONFIG`` is set and leads nowhere.
            ConfigError: If the file cannot be used.
        """
        file = find_file(start)
        return cls(embedded_default(start) if file is None else file)

    @property
    def name(self) -> str:
        """The name of the configuration, ``pipeline`` if it has none."""
        return str(self._top("name", _DEFAULT_NAME))

    def get(self, instance: str | None = None, flow: str | None = None, per_user: bool = False) -> ConfigContext:
        """Make the context of an instance and a flow. Nothing is imported, opened or connected.

        Sections are merged, the later over the earlier: built-in defaults, ``instances.__any__``, the instance,
        ``flows.__any__``, its instance, the flow, its instance. A key that is null deletes what sections below say.

        Args:
            instance: The name of the instance; none for ``__any__``.
            flow: The name of the flow; none for ``__any__``.
            per_user: Whether the instance id is made for the current user by ``per_user_template``.

        Returns:
            The context.

        Raises:
            InstanceNotFoundError: If no section has the instance and ``strict_instance_lookup`` is not false.
            PlaceholderError: If a placeholder in a merged section has no value.
            ConfigError: If the sections do not fit together.
        """
        section = self._merged(instance, flow)
        airflow = section.pop("airflow", {})
        label = _label(instance, flow)
        place = f"{self._source.name} ({label})"
        resolver = Resolver(source=self._source, label=label, name=self.name)
        resolved = resolver.resolved(merge(copied(dict(DEFAULTS)), section), per_user=per_user)
        refuse_reference_classes(resolved, place)
        return ConfigContext(
            **_fields(resolved),
            pipedag_name=self.name,
            flow_name=_named(flow),
            instance_name=instance or ANY,
            airflow=airflow,
            source=self._source.name,
        )

    def identity(self) -> dict[str, Any]:
        """Return what makes a task run again that has the configuration as its argument: any change of its data."""
        return {"name": self.name, "data": identity_without_secrets(self.raw_config)}

    def airflow_settings(self, flow: str, instance: str | None = None) -> dict[str, Any]:
        """Read the section ``airflow`` for a flow.

        If it names an instance, the sections of that instance count too. Only this section needs its environment
        variables: the process that reads DAG files does not know the passwords of stores.

        Args:
            flow: The name of the flow.
            instance: The instance, where the flow itself names one; it wins over the section's.

        Returns:
            The merged section, with environment variables inserted.

        Raises:
            InstanceNotFoundError: If the section names an instance that does not exist.
            PlaceholderError: If an environment variable is not set.
        """
        common = self._merged(None, flow).get("airflow", {})
        # Alone, because the instance may override the other keys, and then their variables are not needed.
        named = {"instance": instance} if instance is not None else common
        chosen = self._with_env({key: named[key] for key in ("instance",) if key in named}, None, flow)
        section = self._merged(chosen.get("instance"), flow).get("airflow", {})
        return self._with_env({**section, **chosen}, chosen.get("instance"), flow)

    def instance_names(self, flow: str | None = None) -> tuple[str, ...]:
        """Return the names of the instances that a flow has in the file, sorted; none of them is ``__any__``."""
        sections = self.config_dict["flows"]
        owners = [self.config_dict, *(sections[name] for name in (ANY, flow) if name in sections)]
        return tuple(sorted({name for owner in owners for name in owner["instances"]} - {ANY}))

    @property
    def strict_instance_lookup(self) -> bool:
        """Whether an instance that the file does not name is an error."""
        return bool(self._top("strict_instance_lookup", True))

    def _with_env(self, airflow: Section, instance: str | None, flow: str) -> Section:
        place = f"{self._source.name} ({_label(instance, flow)})"
        named = {
            kind: {
                name: with_env(section, node, place, ("airflow", kind, name)) for name, section in airflow[kind].items()
            }
            for kind, node in AIRFLOW_NAMED.items()
            if kind in airflow
        }
        return {**with_env(airflow, AIRFLOW, place, ("airflow",)), **named}

    def _merged(self, instance: str | None, flow: str | None) -> Section:
        instance, flow = _named(instance), _named(flow)
        layers = section_layers(self.config_dict, instance, flow)
        known = any(path[-2:] == ("instances", instance) for path, _ in layers)
        if instance is not None and not known and self.strict_instance_lookup:
            raise InstanceNotFoundError(self._unknown_instance(instance))
        return without_nulls(merge_layers(layers, self._source))

    def _unknown_instance(self, instance: str) -> str:
        owners = (self.config_dict, *self.config_dict["flows"].values())
        names = {name for owner in owners for name in owner["instances"] if name != ANY}
        return (
            f"{self._source.name} has no instance {instance!r}; {suggest(instance, names)} "
            "(strict_instance_lookup: false would use instances.__any__ for unknown names)"
        )

    def _top(self, key: str, default: Any) -> Any:
        """Read a key of the top level, which is in no section."""
        template = {key: default if self.raw_config.get(key) is None else self.raw_config[key]}
        return with_env(template, FILE, self._source.name)[key]


def _document(data: str | Path | dict[str, Any] | Document) -> Document:
    if isinstance(data, Document):
        return data
    if isinstance(data, dict):
        return Document(data=data, source=Source(name="dictionary"))
    raise TypeError(f"PipedagConfig takes a path or a dictionary, found a {type(data).__name__}.")


def _named(name: str | None) -> str | None:
    return None if name == ANY else name


def _label(instance: str | None, flow: str | None) -> str:
    return f"instance {instance or ANY}, flow {flow or ANY}"


def _fields(section: Section) -> dict[str, Any]:
    """Pick the attributes of a context out of a resolved section."""
    same = ("instance_id", "fail_fast", "strict_result_get_locking", "network_interface", "attrs")
    seconds = ("lease_seconds", "wait_seconds", "begin_query_seconds", "commit_wait_seconds")
    more = ("generations_to_keep", "auto_table", "auto_blob")
    validation = section.get("cache_validation", {})
    ignore_version = validation.get("ignore_task_version", section.get("ignore_task_version", False))
    return {
        **{key: section[key] for key in (*same, *seconds, *more)},
        "config_dict": section,
        "kroki_url": section.get("kroki_url"),
        "dependents": section["dependents"].lower(),
        "commit_consistency": section["commit_consistency"].lower(),
        "stage_commit_technique": StageCommitTechnique(section["stage_commit_technique"].lower()),
        "ignore_task_version": ignore_version,
        "ignore_cache_function": validation.get("disable_cache_function", False),
        "cache_validation_mode": CacheValidationMode(validation.get("mode", CacheValidationMode.NORMAL).lower()),
        "table_hook_args": section.get("table_store", {}).get("hook_args", {}),
    }
