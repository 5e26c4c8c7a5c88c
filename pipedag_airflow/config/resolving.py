"""What happens to a merged section before a run uses it: values for its placeholders, absolute paths."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from pipedag_airflow.config.embedded import duckdb_url
from pipedag_airflow.config.placeholders import expand_names, user_name
from pipedag_airflow.config.schema import SECTION, with_env
from pipedag_airflow.config.source import Document, KeyPath, Source, dotted
from pipedag_airflow.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pipedag_airflow.config.merging import Section

_TABLE_STORE: KeyPath = ("table_store",)
_COMPONENTS: tuple[KeyPath, ...] = (
    _TABLE_STORE,
    ("table_store", "local_table_cache"),
    ("blob_store",),
    ("lock_manager",),
    ("orchestration",),
)
_DUCKDB = re.compile(r"(duckdb(?:\+\w+)?)(:///)([^?]+)(.*)", re.DOTALL)
# What DuckDB takes for something else than a file: ":memory:", MotherDuck.
_NO_FILE = (":", "md:", "motherduck:")

_Names = dict[str, "Callable[[], str]"]


@frozen
class Resolver:
    """Gives the placeholders and paths of one section their values.

    Attributes:
        source: Where the section comes from; relative paths are resolved against its folder.
        label: Which instance and flow the section is for, in words for error messages.
        name: The value of ``{name}``.
    """

    source: Source
    label: str
    name: str

    def resolved(self, section: Section, *, per_user: bool) -> Section:
        """Expand all placeholders of a section and make its paths absolute.

        Args:
            section: The merged section, built-in defaults included.
            per_user: Whether the instance id is made from the user's name.

        Returns:
            A new section.

        Raises:
            PlaceholderError: If a placeholder has no value.
            ConfigError: If an environment variable does not fit its key or the file of URL attributes cannot be used.
        """
        expanded = with_env(section, SECTION, self._place)
        if per_user:
            expanded["instance_id"] = self._per_user(expanded, section)
        names: _Names = {
            "instance_id": lambda: str(expanded["instance_id"]),
            "username": user_name,
            "name": lambda: self.name,
        }
        for path, args, template in _arguments(expanded, section, (_TABLE_STORE,)):
            self._fill_store(args, template, names, path)
        for path, args, template in _arguments(expanded, section, _COMPONENTS):
            self._fill(args, template, "base_path", names, path)
            if isinstance(args.get("base_path"), str):
                args["base_path"] = self._absolute(args["base_path"])
        return expanded

    @property
    def _place(self) -> str:
        return f"{self.source.name} ({self.label})"

    def _per_user(self, expanded: Section, section: Section) -> str:
        names: _Names = {"id": lambda: str(expanded["instance_id"]), "username": user_name}
        key = "per_user_template"
        return expand_names(expanded[key], section[key], names, (key,), self._place)

    def _fill_store(self, args: Section, template: Section, names: _Names, path: KeyPath) -> None:
        url_names = {**names, **self._url_attributes(args, path)}
        self._fill(args, template, "url", url_names, path)
        if isinstance(args.get("url"), str):
            args["url"] = self._absolute_url(args["url"])
        for key in ("schema_prefix", "schema_suffix"):
            self._fill(args, template, key, names, path)

    def _fill(self, args: Section, template: Section, key: str, names: _Names, path: KeyPath) -> None:
        if isinstance(args.get(key), str):
            args[key] = expand_names(args[key], template[key], names, (*path, key), self._place)

    def _url_attributes(self, args: Section, path: KeyPath) -> _Names:
        """Take the reference to a file of URL attributes out of the arguments and read the file."""
        file = args.pop("url_attrs_file", None)
        if file is None:
            return {}
        if not isinstance(file, str):
            key = dotted((*path, "url_attrs_file"))
            raise ConfigError(f"{self._place}: {key} must be the path of a file, found a {type(file).__name__}.")
        attributes: Mapping[str, Any] = Document.read(Path(self._absolute(file))).data
        return {str(key): _constant(str(value)) for key, value in attributes.items()}

    def _absolute(self, path: str) -> str:
        # Airflow's processes run in folders of their own, so the working directory means nothing.
        if self.source.folder is None or "://" in path:
            return path
        # normpath instead of resolve(): a link that is switched to another target must stay a link.
        return os.path.normpath(self.source.folder / Path(path).expanduser())

    def _absolute_url(self, url: str) -> str:
        match = _DUCKDB.fullmatch(url)
        if match is None or self.source.folder is None:
            return url
        dialect, slashes, path, rest = match.groups()
        if path.startswith(_NO_FILE) or Path(path).is_absolute():
            return url
        # The folder gets escaped, what the user wrote stays as it is.
        folder = duckdb_url(self.source.folder).removeprefix("duckdb:///")
        return f"{dialect}{slashes}{os.path.normpath(f'{folder}/{path}')}{rest}"


def _constant(value: str) -> Callable[[], str]:
    return lambda: value


def _arguments(
    expanded: Section, section: Section, paths: tuple[KeyPath, ...]
) -> Iterator[tuple[KeyPath, Section, Section]]:
    """Give the ``args`` of each component that has some: their path, the expanded ones, and those of the template."""
    for path in paths:
        full = (*path, "args")
        args, template = _at(expanded, full), _at(section, full)
        if args is not None and template is not None:
            yield full, args, template


def _at(section: Section, path: KeyPath) -> Section | None:
    here: Any = section
    for key in path:
        here = here.get(key)
        if here is None:
            return None
    found: Section = here
    return found
