"""What is granted on tables and views of PostgreSQL, as the statements that grant it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from pipedag_airflow.backend.table.sql import ddl

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["default_grants", "grants"]

_GRANTS = sa.text("""
    SELECT c.relname, NULL::name AS column_name, g.privilege_type, r.rolname, g.is_grantable
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) g
    LEFT JOIN pg_catalog.pg_roles r ON r.oid = g.grantee
    WHERE n.nspname = :schema AND c.relname IN :names AND g.grantee <> c.relowner
    UNION ALL
    SELECT c.relname, a.attname, g.privilege_type, r.rolname, g.is_grantable
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    CROSS JOIN LATERAL pg_catalog.aclexplode(a.attacl) g
    LEFT JOIN pg_catalog.pg_roles r ON r.oid = g.grantee
    WHERE n.nspname = :schema AND c.relname IN :names AND g.grantee <> c.relowner
""").bindparams(sa.bindparam("names", expanding=True))

_DEFAULT_GRANTS = sa.text("""
    SELECT g.privilege_type, r.rolname, g.is_grantable
    FROM pg_catalog.pg_default_acl d
    LEFT JOIN pg_catalog.pg_namespace n ON n.oid = d.defaclnamespace
    JOIN pg_catalog.pg_roles o ON o.oid = d.defaclrole
    CROSS JOIN LATERAL pg_catalog.aclexplode(d.defaclacl) g
    LEFT JOIN pg_catalog.pg_roles r ON r.oid = g.grantee
    WHERE d.defaclobjtype = 'r' AND (n.nspname = :schema OR d.defaclnamespace = 0)
        AND o.rolname = current_user AND g.grantee <> d.defaclrole
""")


def grants(connection: sa.Connection, schema: str, names: Collection[str]) -> list[ddl.Grant]:
    """Return what was granted on tables and views, or on columns of them, to others than their owners."""
    if not names:
        return []
    rows: Any = connection.execute(_GRANTS, {"schema": schema, "names": sorted(names)})
    return [
        ddl.Grant(privilege, schema, name, role, grantable=grantable, column=column)
        for name, column, privilege, role, grantable in rows
    ]


def default_grants(connection: sa.Connection, schema: str, names: Collection[str]) -> list[ddl.Grant]:
    """Return what PostgreSQL itself would grant on tables if we made them in a schema now."""
    if not names:
        return []
    rows: Any = connection.execute(_DEFAULT_GRANTS, {"schema": schema})
    return [
        ddl.Grant(privilege, schema, name, role, grantable=grantable)
        for privilege, role, grantable in rows
        for name in sorted(names)
    ]
