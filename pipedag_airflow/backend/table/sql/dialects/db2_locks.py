"""Db2's clock for leases. Its present time has no time zone: it is that of the server's place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.ext.compiler import compiles

from pipedag_airflow.backend.metadata.leases import PresentTime

if TYPE_CHECKING:
    from sqlalchemy.sql.compiler import SQLCompiler


@compiles(PresentTime, "ibm_db_sa")
def _present_time(_element: PresentTime, _compiler: SQLCompiler, **_: Any) -> str:
    return "EXTRACT(EPOCH FROM CURRENT TIMESTAMP - CURRENT TIMEZONE)"
