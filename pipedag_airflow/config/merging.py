"""The layers of a configuration: named blocks, and which section wins over which.

A key that is explicitly null deletes what the layers below it say. While layers are merged the null stays as a mark, so
that it also deletes from layers that are merged later; :func:`without_nulls` removes the marks at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipedag_airflow.config.source import KeyPath, Source, dotted
from pipedag_airflow.core.naming import suggest
from pipedag_airflow.errors import ConfigError, MissingBlockError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ANY = "__any__"

Section = dict[str, Any]
Layer = tuple[KeyPath, Section]

# Where a section may refer to a named block: path of the owner in the section, key of the reference, home of blocks.
# The technical setup comes first because it may itself bring the other references.
_REFERENCES: tuple[tuple[KeyPath, str, str], ...] = (
    ((), "technical_setup", "technical_setups"),
    (("table_store",), "table_store_connection", "table_store_connections"),
    (("blob_store",), "blob_store_connection", "blob_store_connections"),
)


def merge(
    base: Section,
    top: Section,
    *,
    where: Callable[[KeyPath], str] = dotted,
    below: str = "the section below",
) -> Section:
    """Lay one section over another.

    Maps are merged key by key; everything else is replaced.

    Args:
        base: The section below.
        top: The section that wins.
        where: Names a key of the winning section in an error message.
        below: Names the section below in an error message.

    Returns:
        A new section.

    Raises:
        ConfigError: If one has a map where the other has something else; a whole subtree would be lost silently.
    """
    return _merge(base, top, (), (where, below))


def _merge(base: Section, top: Section, path: KeyPath, names: tuple[Callable[[KeyPath], str], str]) -> Section:
    result = dict(base)
    for key, value in top.items():
        here, old = (*path, str(key)), base.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            result[key] = _merge(old, value, here, names)
        elif old is None or value is None or isinstance(old, dict) == isinstance(value, dict):
            result[key] = value
        else:
            where, below = names
            raise ConfigError(
                f"{where(here)}: {_kind(value)} here, but {_kind(old)} in {below}. The two cannot be merged: "
                "write the same kind of value in both."
            )
    return result


def _kind(value: object) -> str:
    if isinstance(value, dict):
        return "a map"
    return "a list" if isinstance(value, list) else f"a {type(value).__name__}"


def merge_layers(layers: Sequence[Layer], source: Source) -> Section:
    """Merge sections, the later over the earlier.

    Args:
        layers: Path and content of each section.
        source: Where they come from.

    Returns:
        A new section that may still have nulls.

    Raises:
        ConfigError: If two layers do not fit together.
    """
    result: Section = {}
    for index, (path, section) in enumerate(layers):
        below = " and ".join(dotted(lower) for lower, _ in layers[:index])
        result = merge(result, section, where=_locate(source, path), below=below)
    return result


def _locate(source: Source, owner: KeyPath) -> Callable[[KeyPath], str]:
    return lambda path: source.where((*owner, *path))


def without_nulls(section: Section) -> Section:
    """Drop every key that is null; nulls inside of lists stay.

    Args:
        section: A merged section.

    Returns:
        A new section that shares no map with the given one.
    """
    return {
        key: without_nulls(value) if isinstance(value, dict) else value
        for key, value in section.items()
        if value is not None
    }


def copied(value: Any) -> Any:
    """Copy maps and lists, and keep what is in them.

    Args:
        value: Data as read from YAML.

    Returns:
        Data that can be changed without changing the given one.
    """
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [copied(item) for item in value]
    return value


def expanded_blocks(config: Section, source: Source) -> Section:
    """Replace the references to named blocks in all sections of a configuration.

    Values that are written inline win over those of the block. References are followed before any placeholder is
    expanded, so the name of a block cannot be a placeholder.

    Args:
        config: The whole configuration.
        source: Where it comes from.

    Returns:
        A new configuration.

    Raises:
        MissingBlockError: If there is no block of that name.
    """
    result = copied(config)
    result["instances"] = _expanded_sections(config, config.get("instances"), ("instances",), source)
    flows = _expanded_sections(config, config.get("flows"), ("flows",), source)
    for name, flow in flows.items():
        flow["instances"] = _expanded_sections(config, flow.get("instances"), ("flows", name, "instances"), source)
    result["flows"] = flows
    return dict(result)


def _expanded_sections(config: Section, sections: Section | None, path: KeyPath, source: Source) -> Section:
    return {
        name: _expanded_section(config, copied(section or {}), (*path, name), source)
        for name, section in (sections or {}).items()
    }


def _expanded_section(config: Section, section: Section, path: KeyPath, source: Source) -> Section:
    for owner, key, home in _REFERENCES:
        section = _with_block(config, section, owner, (path, key, home), source)
    return section


def _with_block(
    config: Section, section: Section, owner: KeyPath, reference: tuple[KeyPath, str, str], source: Source
) -> Section:
    """Merge the block that one part of a section refers to below that part."""
    if owner:
        inner = section.get(owner[0])
        if not isinstance(inner, dict):
            return section
        path, key, home = reference
        deeper = ((*path, owner[0]), key, home)
        return {**section, owner[0]: _with_block(config, inner, owner[1:], deeper, source)}
    path, key, home = reference
    name = section.get(key)
    rest = {other: value for other, value in section.items() if other != key}
    if name is None:
        return rest
    block = _block(config, home, name, (*path, key), source)
    return merge(block, rest, where=_locate(source, path), below=f"the block {home}.{name}")


def _block(config: Section, home: str, name: str, path: KeyPath, source: Source) -> Section:
    blocks = config.get(home) or {}
    if name not in blocks:
        problem = f"{source.where(path)} refers to {home}.{name}, which does not exist"
        raise MissingBlockError(f"{problem}; {suggest(name, blocks)}")
    return dict(copied(blocks[name] or {}))


def section_layers(config: Section, instance: str | None, flow: str | None) -> list[Layer]:
    """List the sections that make up one instance of one flow, the weakest first.

    Args:
        config: The configuration, references expanded.
        instance: The name of the instance; none for what all instances have in common.
        flow: The name of the flow; none for what all flows have in common.

    Returns:
        Path and content of the sections that exist.
    """
    paths: list[tuple[str | None, ...]] = [("instances", ANY), ("instances", instance)]
    for name in (ANY, flow):
        paths += [("flows", name), ("flows", name, "instances", instance)]
    wanted = [tuple(key for key in path if key is not None) for path in paths if None not in path]
    return [(path, section) for path in wanted if (section := _at(config, path)) is not None]


def _at(config: Section, path: KeyPath) -> Section | None:
    """Get the section at a path without the instances of a flow, or nothing if it does not exist."""
    here: Any = config
    for key in path:
        if key not in here:
            return None
        here = here[key]
    return {key: value for key, value in here.items() if key != "instances"}
