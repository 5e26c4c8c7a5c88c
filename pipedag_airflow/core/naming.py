"""How names become names: normal form, schema names of generations, generated table names."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "MANGLE_MARK",
    "METADATA",
    "checked_tags",
    "generated_name",
    "generation_schema",
    "looks_like_generation",
    "normalise",
    "suggest",
]

#: Name of the schema that holds the metadata; no stage may have it.
METADATA = "pipedag_metadata"
#: A name that ends in these characters gets a unique suffix in their place.
MANGLE_MARK = "%%"

_TAG = re.compile(r"[\w.-]+")
_GENERATION = re.compile(r"__g\d+$")


def normalise(name: str) -> str:
    """Return the normal form of a stage, table or blob name: names that differ only in case are one name.

    Example:
        >>> normalise(" Raw/Data ")
        'raw_data'
    """
    return name.casefold().strip().replace("/", "_")


def generation_schema(stage: str, generation: int) -> str:
    """Return the name of the schema that generation ``generation`` of ``stage`` writes to.

    Every attempt has a schema of its own, so a process that outlived its run can hurt nobody.

    Example:
        >>> generation_schema("clean", 12)
        'clean__g12'
    """
    return f"{stage}__g{generation}"


def looks_like_generation(stage: str) -> bool:
    """Say whether a stage name could be mistaken for the schema of another stage's generation."""
    return _GENERATION.search(stage) is not None


def checked_tags(owner: str, tags: str | Iterable[str]) -> tuple[str, ...]:
    """Return the tags of a stage or task, sorted.

    Args:
        owner: What has the tags, for messages.
        tags: One tag, or several.

    Raises:
        ValueError: if one could not be written in a selection.
    """
    found = {tags} if isinstance(tags, str) else set(tags)
    for tag in found:
        if not isinstance(tag, str) or _TAG.fullmatch(tag) is None:
            raise ValueError(f"{owner} has the tag {tag!r}: a tag is made of letters, digits, dots, dashes and _.")
    return tuple(sorted(found))


def generated_name(requested: str | None, task: str, suffix: str) -> str:
    """Return the final name of a table, script or blob.

    Args:
        requested: The name that the user gave, or None.
        task: Name of the task that made the object; the base of a name that was not given.
        suffix: What makes the name unique within the stage.
    """
    if requested is None:
        return normalise(f"{task}_{suffix}")
    if requested.endswith(MANGLE_MARK):
        return normalise(requested.removesuffix(MANGLE_MARK) + suffix)
    return normalise(requested)


def suggest(word: str, valid: Iterable[str]) -> str:
    """Say what could have been meant by a word that is not among the valid ones.

    Args:
        word: What was written.
        valid: What may be written there.

    Returns:
        A clause that names the nearest valid word, or all valid words if none is near.
    """
    choices = sorted(valid)
    near = get_close_matches(word.lower(), choices, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return "valid here: " + (", ".join(choices) or "nothing")
