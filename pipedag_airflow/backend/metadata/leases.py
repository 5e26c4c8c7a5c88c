"""All statements on the lease table, within one transaction of the table store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

from pipedag_airflow.errors import LockError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.sql.compiler import SQLCompiler

__all__ = ["LeaseConflictError", "LeaseRepository", "PresentTime"]


class PresentTime(sa.sql.functions.FunctionElement[float]):
    """The present time by the clock of the database, in seconds since 1970, UTC; a dialect may say it otherwise."""

    inherit_cache = True
    type = sa.Double()


@compiles(PresentTime)
def _present_time(_element: PresentTime, _compiler: SQLCompiler, **_: Any) -> str:
    return "EXTRACT(EPOCH FROM CURRENT_TIMESTAMP)"


class LeaseConflictError(LockError):
    """Another process has changed the row since it was read; the transaction has to be rolled back."""


@attrs.frozen
class LeaseRepository:
    """Reads and changes lease rows on an open connection.

    A row is never locked while anybody thinks: it is read, and replaced if it is still the one that was read.

    Args:
        connection: A connection within a transaction; committing is the caller's.
        table: The lease table.
    """

    connection: sa.Connection
    table: sa.Table

    def now(self) -> float:
        """Return the present time by the clock of the database, in seconds since 1970."""
        return float(self.connection.execute(sa.select(PresentTime())).scalar_one())

    def read(self, stage: str) -> dict[str, Any] | None:
        """Return the row of a stage, if it has one."""
        query = sa.select(self.table).where(self.table.c.stage == stage)
        row = self.connection.execute(query).one_or_none()
        return None if row is None else dict(row._mapping)

    def read_all(self) -> list[dict[str, Any]]:
        """Return all rows, by name of the stage."""
        rows = self.connection.execute(sa.select(self.table).order_by(self.table.c.stage))
        return [dict(row._mapping) for row in rows]

    def stages(self) -> list[str]:
        """Return the names of the stages that have a row."""
        return list(self.connection.execute(sa.select(self.table.c.stage)).scalars())

    def replace(self, stage: str, version: int | None, values: Mapping[str, Any]) -> None:
        """Replace the row of a stage, if it is still the one that was read.

        Args:
            stage: Name of the stage.
            version: The version that was read; None if there was no row.
            values: The other columns of the new row.

        Raises:
            LeaseConflictError: if it is not.
        """
        if version is None:
            self._insert(stage, values)
            return
        same = (self.table.c.stage == stage) & (self.table.c.version == version)
        done = self.connection.execute(sa.update(self.table).where(same).values(version=version + 1, **values))
        if done.rowcount != 1:
            raise LeaseConflictError(f"The lease of stage {stage!r} was changed meanwhile.")

    def _insert(self, stage: str, values: Mapping[str, Any]) -> None:
        try:
            self.connection.execute(sa.insert(self.table).values(stage=stage, version=1, **values))
        except sa.exc.IntegrityError as error:
            raise LeaseConflictError(f"The lease of stage {stage!r} was made meanwhile.") from error
