"""Why a task ran, or why it is valid: the decision that the metadata keep, for a person to read."""

from __future__ import annotations

import difflib
import json
from typing import TYPE_CHECKING

from pipedag_airflow.backend.metadata import GenerationRecord, GenerationState, TaskRecord, TaskState
from pipedag_airflow.errors import CacheError

if TYPE_CHECKING:
    from pipedag_airflow.backend.metadata import MetadataRepository

__all__ = ["explain"]


def explain(metadata: MetadataRepository, node: str, run_id: str | None = None) -> str:
    """Return what was decided on a task, and why, as a few lines of text.

    Args:
        metadata: The metadata, within a transaction.
        node: Id of the task, ``stage.task``.
        run_id: The run that is asked about; None for the newest generation that has the task.

    Raises:
        CacheError: if nothing is known of the task; the message names the nearest one that is known.
    """
    generations = _generations(metadata, node, run_id)
    known = {generation.number: generation for generation in generations}
    rows = metadata.read_tasks([(generation.stage, generation.number) for generation in generations])
    own = {row.generation: row for row in rows if row.node == node}
    if not own:
        raise CacheError(_unknown(metadata, node))
    row = own[max(own)]
    newest = generations[-1]
    # Of a generation in which nothing changed no rows are kept: what it found valid is in the one before it.
    unchanged = [one for one in generations if one.number > row.generation and _is_unchanged(one)]
    if unchanged and newest is unchanged[-1]:
        return "\n".join([f"{node}: valid", *_unchanged_lines(unchanged), *_row_lines(row, own, known)])
    verb = "is valid" if row.state is TaskState.VALID else row.state.value
    return "\n".join([f"{node}: {verb}", *_row_lines(row, own, known)])


def _generations(metadata: MetadataRepository, node: str, run_id: str | None) -> list[GenerationRecord]:
    found = metadata.generations(stage=node.partition(".")[0])
    if run_id is None:
        return found
    last = max((one.number for one in found if one.run_id == run_id), default=-1)
    return [one for one in found if one.number <= last]


def _is_unchanged(generation: GenerationRecord) -> bool:
    return generation.state is GenerationState.UNCHANGED


def _unchanged_lines(unchanged: list[GenerationRecord]) -> list[str]:
    runs = "1 run" if len(unchanged) == 1 else f"{len(unchanged)} runs"
    return [f"  nothing has changed in {runs} since; the last was {_when(unchanged[-1])}"]


def _row_lines(row: TaskRecord, own: dict[int, TaskRecord], known: dict[int, GenerationRecord]) -> list[str]:
    lines = [f"  decided by {_when(known[row.generation])}", f"  reason: {_reason(row)}"]
    made = own.get(row.produced_by or row.generation)
    if made is not None and made is not row:
        lines += [f"  made by {_when(known[made.generation])}", f"  reason then: {_reason(made)}"]
    lines.append(f"  version: {row.version}")
    inputs = json.loads(row.inputs or "{}")
    return [*lines, *(f"  input {name}: {text}" for name, text in sorted(inputs.items()))]


def _when(generation: GenerationRecord) -> str:
    opened = "" if generation.opened is None else f", {generation.opened:%Y-%m-%d %H:%M:%S}"
    return f"run {generation.run_id} (generation {generation.number}, {generation.state.value}{opened})"


def _reason(row: TaskRecord) -> str:
    return f"{row.reason}: {row.detail}" if row.detail else row.reason


def _unknown(metadata: MetadataRepository, node: str) -> str:
    places = [(one.stage, one.number) for one in metadata.generations() if not one.dropped]
    known = sorted({row.node for row in metadata.read_tasks(places)})
    near = difflib.get_close_matches(node, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"Nothing is known of a task {node!r}.{hint} Known tasks: {', '.join(known) or 'none'}."
