"""What is published: the stages of a flow with their tables, for a person to read.

``python -m pipedag_airflow.run.summary FLOW_FILE FLOW_NAME`` prints it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from pipedag_airflow.backend.metadata import ObjectKind
from pipedag_airflow.config import ConfigContext, PipedagConfig

if TYPE_CHECKING:
    from pipedag_airflow.backend.metadata import MetadataRepository, StageRecord, TaskRecord
    from pipedag_airflow.run.result import Result

__all__ = ["StageSummary", "TableSummary", "format_stages", "published_by", "published_stages"]


@attrs.frozen
class TableSummary:
    """A published table."""

    name: str
    rows: int
    columns: int
    task: str


@attrs.frozen
class StageSummary:
    """A published stage: the number of its generation, its tables and the names of its blobs."""

    name: str
    generation: int
    tables: tuple[TableSummary, ...]
    blobs: tuple[str, ...]


def published_stages(flow_file: Path, flow_name: str) -> list[StageSummary]:
    """Return what is published in the instance that a flow file runs in.

    Args:
        flow_file: The flow module; the configuration is found from its folder upward.
        flow_name: Name of the flow.
    """
    return _summaries(PipedagConfig.find(flow_file.resolve().parent).get(flow=flow_name))


def published_by(result: Result) -> list[StageSummary]:
    """Return what is published in the instance that a run belongs to."""
    return _summaries(result.config_context)


def _summaries(context: ConfigContext) -> list[StageSummary]:
    with context.table_store.transaction() as transaction:
        stages, rows = _live(transaction.metadata)
    summaries = []
    for stage in stages:
        if stage.live is None:
            continue
        objects = {stored for row in rows if row.stage == stage.stage and row.twin is None for stored in row.objects}
        tables = [stored for stored in objects if stored.kind is ObjectKind.TABLE]
        summaries.append(
            StageSummary(
                stage.stage,
                stage.live,
                tuple(
                    TableSummary(table.name, table.rows or 0, len(table.facts["columns"]), table.node)
                    for table in sorted(tables, key=lambda table: table.name)
                ),
                tuple(sorted(stored.name for stored in objects if stored.kind is ObjectKind.BLOB)),
            )
        )
    return summaries


def _live(metadata: MetadataRepository) -> tuple[list[StageRecord], list[TaskRecord]]:
    """Return the stages and the rows of their published tasks, both as of one moment."""
    while True:
        stages = metadata.all_stages()
        rows = metadata.read_tasks([(stage.stage, stage.live) for stage in stages if stage.live is not None])
        # A run may publish between two statements, and clean up what was live in the first.
        if metadata.all_stages() == stages:
            return stages, rows


def format_stages(stages: list[StageSummary]) -> str:
    """Return the summary as text, a line per table."""
    lines = []
    for stage in stages:
        lines.append(f"{stage.name} (generation {stage.generation})")
        width = max((len(table.name) for table in stage.tables), default=0)
        lines += [
            f"  {table.name:<{width}}  {table.rows:>9,} rows  {table.columns:>3} columns" for table in stage.tables
        ]
        lines += [f"  {blob} (blob)" for blob in stage.blobs]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Print the summary for FLOW_FILE and FLOW_NAME."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m pipedag_airflow.run.summary FLOW_FILE FLOW_NAME\n")
        return 2
    sys.stdout.write(format_stages(published_stages(Path(arguments[0]), arguments[1])) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
