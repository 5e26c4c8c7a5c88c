"""What others may do with a table that an alias stands for: in Db2 that is granted on the table, not on the alias."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

from pipedag_airflow.backend.table.sql.ddl import Verb, option, qualified
from pipedag_airflow.backend.table.sql.dialects.db2 import catalog

if TYPE_CHECKING:
    from sqlalchemy.sql.compiler import DDLCompiler

    from pipedag_airflow.backend.metadata import Place

__all__ = ["carry_over"]

# SYSIBM grants the owner of a table what he has of it anyway.
_GRANTS = sa.text("""
    SELECT GRANTEE, GRANTEETYPE, SELECTAUTH, INSERTAUTH, UPDATEAUTH, DELETEAUTH
    FROM SYSCAT.TABAUTH
    WHERE TABSCHEMA = :schema AND TABNAME = :name AND GRANTOR <> 'SYSIBM'
    ORDER BY GRANTEE, GRANTEETYPE
    WITH UR
""")
_PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE")
_KINDS = {"U": "USER", "G": "GROUP", "R": "ROLE"}
_GRANTABLE, _NOT_GRANTED = "G", "N"


def carry_over(connection: sa.Connection, source: Place, target: Place) -> None:
    """Grant on a table what is granted on the one that it replaces; on a view, only to read it.

    Args:
        connection: A connection within a transaction.
        source: The table or view that readers see until now.
        target: The one that they are to see.
    """
    schema, name = (catalog.catalog_name(connection, part) for part in source)
    is_table = catalog.relations(connection, [target[0]]).get(target) == "TABLE"
    for grantee, kind, *states in connection.execute(_GRANTS, {"schema": schema, "name": name}).all():
        for privilege, state in list(zip(_PRIVILEGES, states, strict=True))[: None if is_table else 1]:
            if state != _NOT_GRANTED:
                who = "PUBLIC" if grantee.rstrip() == "PUBLIC" else catalog.our_name(connection, grantee)
                connection.execute(_Grant(privilege, target, _KINDS[kind], who, grantable=state == _GRANTABLE))


class _Grant(Verb):
    """``GRANT privilege ON TABLE schema.name TO kind grantee``."""

    def __init__(self, privilege: str, place: Place, kind: str, who: str, *, grantable: bool) -> None:
        self.privilege, self.place, self.kind, self.who, self.grantable = privilege, place, kind, who, grantable


@compiles(_Grant)
def _grant(verb: _Grant, compiler: DDLCompiler, **_: Any) -> str:
    who = "PUBLIC" if verb.who == "PUBLIC" else f"{verb.kind} {compiler.preparer.quote(verb.who)}"
    return f"GRANT {verb.privilege} ON TABLE {qualified(compiler, *verb.place)} TO {who}{option(verb.grantable)}"
