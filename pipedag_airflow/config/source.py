"""Where configuration values come from: the file, the line of every key, and how errors name them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml
from attrs import field, frozen

from pipedag_airflow.errors import ConfigError, ConfigNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

KeyPath = tuple[str, ...]
_Line = tuple[KeyPath, int]

_MERGE_TAG = "tag:yaml.org,2002:merge"


def dotted(path: KeyPath) -> str:
    """Write the path of a key as people do: ``table_store.args.url``."""
    return ".".join(path)


@frozen
class Source:
    """The origin of a configuration.

    Attributes:
        name: The file's path, or words such as "embedded default".
        folder: The folder against which relative paths are resolved; none if there is no file.
        lines: The line of each key in the file, by the key's path.
    """

    name: str
    folder: Path | None = None
    lines: Mapping[KeyPath, int] = field(factory=dict, repr=False)

    def where(self, path: KeyPath) -> str:
        """Name a key for an error message: file, line if there is one, dotted path."""
        line = self._line(path)
        place = self.name if line is None else f"{self.name}, line {line}"
        return f"{place}: {dotted(path)}" if path else place

    def _line(self, path: KeyPath) -> int | None:
        # A value may come out of a named block; then the section that refers to the block is the place to look at.
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return None


@frozen
class Document:
    """Configuration data together with their origin."""

    data: dict[str, Any]
    source: Source

    @classmethod
    def read(cls, path: Path) -> Document:
        """Read a YAML file whose top level is a map.

        Args:
            path: The file.

        Returns:
            Its data and the lines of its keys. An empty file is an empty map.

        Raises:
            ConfigNotFoundError: If there is no such file.
            ConfigError: If it cannot be read, is no YAML, has a key twice in one map, or is no map.
        """
        return _parse(_read_text(path), path)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        message = f"There is no configuration file {path}. Correct the path or create the file."
        raise ConfigNotFoundError(message) from None
    except OSError as error:
        raise ConfigError(f"The configuration file {path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        message = (
            f"The configuration file {path} is not UTF-8 text: byte {error.start} cannot be decoded. Save it as UTF-8."
        )
    # Raised out here because the decoding error carries the whole content of the file, passwords included.
    raise ConfigError(message)


def _parse(text: str, path: Path) -> Document:
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            lines = dict(_lines(node, (), path)) if node is not None else {}
            data = loader.construct_document(node) if node is not None else {}
        finally:
            loader.dispose()
    except ConfigError:
        raise
    except yaml.YAMLError as error:
        message = _syntax_message(error, path)
    except ValueError as error:
        problem = _without_quotations(str(error))
        message = f"{path}: a value looks like a date or a number and is none: {problem}. Text needs quotes."
    else:
        if data is None or isinstance(data, dict):
            return Document(data=data or {}, source=Source(name=str(path), folder=path.parent.absolute(), lines=lines))
        message = f"{path}, line 1: the file must be a map of keys, but it is a {type(data).__name__}."
    # Raised out here because YAML's own error quotes the offending line, which may hold a password.
    raise ConfigError(message)


def _syntax_message(error: yaml.YAMLError, path: Path) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark else str(path)
    problem = _without_quotations(getattr(error, "problem", None) or "it cannot be parsed")
    return f"{place}: this is not valid YAML: {problem}. Text that begins with one of ! & * @ % {{ [ needs quotes."


def _without_quotations(problem: str) -> str:
    # A password that begins with "!" or "*" is a tag or an alias to YAML, which then quotes it.
    return re.sub(r"'[^']{2,}'", "'...'", problem)


def _lines(node: yaml.Node, path: KeyPath, file: Path, ancestors: tuple[yaml.Node, ...] = ()) -> Iterator[_Line]:
    """Give the line of each key below a node; keys that come in by ``<<`` have the line of their anchor."""
    if any(node is ancestor for ancestor in ancestors):
        raise ConfigError(f"{file}, line {node.start_mark.line + 1}: {dotted(path)} contains itself (YAML alias).")
    inner = (*ancestors, node)
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _lines(item, path, file, inner)
    if not isinstance(node, yaml.MappingNode):
        return
    own = [pair for pair in node.value if pair[0].tag != _MERGE_TAG]
    for key, value in node.value:
        if key.tag == _MERGE_TAG:
            yield from _lines(value, path, file, inner)
    _refuse_duplicates([key for key, _ in own], path, file)
    for key, value in own:
        here = (*path, str(key.value))
        yield here, key.start_mark.line + 1
        yield from _lines(value, here, file, inner)


def _refuse_duplicates(keys: list[yaml.Node], path: KeyPath, file: Path) -> None:
    first: dict[str, int] = {}
    for key in keys:
        name, line = str(key.value), key.start_mark.line + 1
        if name in first:
            message = f"{file}, line {line}: {dotted((*path, name))} is already written in line {first[name]}; "
            raise ConfigError(message + "YAML would drop one of the two silently. Merge them.")
        first[name] = line
