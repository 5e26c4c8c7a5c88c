"""Lineage in the words of OpenLineage.

Imported only when OpenLineage's provider asks an operator: without the extra ``openlineage`` it cannot be imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.providers.common.compat.openlineage.facet import (
    InputDataset,
    OutputDataset,
    OutputStatisticsOutputDatasetFacet,
    SchemaDatasetFacet,
    SchemaDatasetFacetFields,
    SQLJobFacet,
)
from airflow.providers.openlineage.extractors import OperatorLineage

from pipedag_airflow.config.known_secrets import without_secrets

if TYPE_CHECKING:
    from airflow.providers.common.compat.openlineage.facet import Dataset as AnyDataset
    from airflow.providers.common.compat.openlineage.facet import DatasetFacet

    from pipedag_airflow.run.lineage import Dataset, Lineage

__all__ = ["lineage_facets"]


def lineage_facets(lineage: Lineage) -> OperatorLineage[AnyDataset, SQLJobFacet]:
    """Return what OpenLineage's provider sends: tables with columns, how many rows were made, and the queries."""
    queries = without_secrets(lineage.queries.strip())
    return OperatorLineage(
        inputs=[InputDataset(table.namespace, table.name, facets=_columns(table)) for table in lineage.inputs.values()],
        outputs=[_output(table) for table in lineage.outputs.values()],
        job_facets={"sql": SQLJobFacet(query=queries)} if queries else {},
    )


def _output(table: Dataset) -> AnyDataset:
    rows = {} if table.rows is None else {"outputStatistics": OutputStatisticsOutputDatasetFacet(rowCount=table.rows)}
    return OutputDataset(table.namespace, table.name, facets=_columns(table), outputFacets={**rows})


def _columns(table: Dataset) -> dict[str, DatasetFacet]:
    fields = [SchemaDatasetFacetFields(name=name, type=kind) for name, kind in table.columns]
    return {"schema": SchemaDatasetFacet(fields=fields)} if fields else {}
