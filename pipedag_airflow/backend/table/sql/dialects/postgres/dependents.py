"""What others have built on tables of PostgreSQL, and must not lose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import attrs
import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipedag_airflow.backend.metadata import Place

__all__ = ["ROUTINE_LABEL", "Dependent", "dependents_elsewhere", "find_dependents"]

#: A function is told from others of its name by the types of its arguments. They stand here without their schemas: a
#: type may move together with the function.
ROUTINE_LABEL = """
    CASE p.prokind WHEN 'p' THEN 'procedure ' WHEN 'a' THEN 'aggregate ' ELSE 'function ' END || p.proname || '(' || (
        SELECT coalesce(pg_catalog.string_agg(
            CASE WHEN t.typnamespace = 'pg_catalog'::regnamespace THEN pg_catalog.format_type(t.oid, NULL)
                ELSE t.typname END, ', ' ORDER BY argument.position), '')
        FROM pg_catalog.unnest(p.proargtypes) WITH ORDINALITY AS argument(type, position)
        JOIN pg_catalog.pg_type t ON t.oid = argument.type
    ) || ')'
"""

_DEPENDENTS = sa.text(f"""
    SELECT DISTINCT d.refobjid AS source, n.nspname AS schema, v.relname AS name, v.relname::text AS label, v.oid,
        CASE v.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' ELSE 'rule of the table' END AS kind,
        o.rolname AS owner, pg_catalog.pg_has_role(v.relowner, 'USAGE') AS changeable,
        v.reloptions AS options, pg_catalog.pg_get_viewdef(v.oid) AS definition
    FROM pg_catalog.pg_depend d
    JOIN pg_catalog.pg_rewrite r ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND r.oid = d.objid
    JOIN pg_catalog.pg_class v ON v.oid = r.ev_class
    JOIN pg_catalog.pg_namespace n ON n.oid = v.relnamespace
    JOIN pg_catalog.pg_roles o ON o.oid = v.relowner
    WHERE d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid IN :oids AND v.oid <> d.refobjid
    UNION ALL
    SELECT DISTINCT d.refobjid, n.nspname, p.proname, {ROUTINE_LABEL}, p.oid, 'function', NULL::name, false,
        NULL::text[], NULL
    FROM pg_catalog.pg_depend d
    JOIN pg_catalog.pg_proc p ON d.classid = 'pg_catalog.pg_proc'::regclass AND p.oid = d.objid
    JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    WHERE d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid IN :oids
    UNION ALL
    SELECT DISTINCT k.confrelid, n.nspname, c.relname, c.relname, c.oid, 'table with a foreign key', NULL::name, false,
        NULL::text[], NULL
    FROM pg_catalog.pg_constraint k
    JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE k.contype = 'f' AND k.confrelid IN :oids AND k.conrelid <> k.confrelid
    ORDER BY oid, source
""").bindparams(sa.bindparam("oids", expanding=True))  # noqa: S608 - put together from constants

_ELSEWHERE = sa.text("""
    WITH content AS (
        SELECT 'pg_catalog.pg_class'::regclass AS class, c.oid FROM pg_catalog.pg_class c
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = :schema
        UNION ALL
        SELECT 'pg_catalog.pg_proc'::regclass, p.oid FROM pg_catalog.pg_proc p
            JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = :schema
        UNION ALL
        SELECT 'pg_catalog.pg_type'::regclass, t.oid FROM pg_catalog.pg_type t
            JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace WHERE n.nspname = :schema
    ), dependent AS (
        SELECT
            coalesce(r.ev_class, a.adrelid, g.tgrelid, nullif(k.conrelid, 0), p.polrelid, m.prrelid) AS relation,
            d.classid, d.objid
        FROM content
        JOIN pg_catalog.pg_depend d ON d.refclassid = content.class AND d.refobjid = content.oid
        LEFT JOIN pg_catalog.pg_rewrite r ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND r.oid = d.objid
        LEFT JOIN pg_catalog.pg_attrdef a ON d.classid = 'pg_catalog.pg_attrdef'::regclass AND a.oid = d.objid
        LEFT JOIN pg_catalog.pg_trigger g ON d.classid = 'pg_catalog.pg_trigger'::regclass AND g.oid = d.objid
        LEFT JOIN pg_catalog.pg_constraint k ON d.classid = 'pg_catalog.pg_constraint'::regclass AND k.oid = d.objid
        LEFT JOIN pg_catalog.pg_policy p ON d.classid = 'pg_catalog.pg_policy'::regclass AND p.oid = d.objid
        LEFT JOIN pg_catalog.pg_publication_rel m
            ON d.classid = 'pg_catalog.pg_publication_rel'::regclass AND m.oid = d.objid
        WHERE d.deptype <> 'i'
    )
    SELECT DISTINCT found.identity
    FROM dependent
    CROSS JOIN LATERAL pg_catalog.pg_identify_object(
        CASE WHEN relation IS NULL THEN classid ELSE 'pg_catalog.pg_class'::regclass END, coalesce(relation, objid), 0
    ) AS found
    -- It gives names as they stand in statements, with quotes where these are needed.
    WHERE found.schema IS DISTINCT FROM pg_catalog.quote_ident(:schema)
    ORDER BY found.identity
""")


@attrs.frozen
class Dependent:
    """Something that depends on a table or view.

    Args:
        source: Object id of the table or view.
        schema: Schema of the dependent.
        name: Its name.
        label: By what we know its place: of a function also what it is, and its arguments.
        oid: Its object id.
        kind: What it is, in words.
        owner: Owner of a view; None for what is no view.
        changeable: Whether we may change it: it is ours, or we are a member of the role that owns it.
        options: Storage options of a view.
        definition: Query of a view; None for what is no view.
    """

    source: int
    schema: str
    name: str
    label: str
    oid: int
    kind: str
    owner: str | None
    changeable: bool
    options: tuple[str, ...]
    definition: str | None

    @classmethod
    def of(cls, row: Any, source: int) -> Self:
        """Return what a row of a query for dependents tells.

        Args:
            row: The row.
            source: Object id of what it depends on.
        """
        told = (row.schema, row.name, row.label, row.oid, row.kind, row.owner, row.changeable)
        return cls(source, *told, tuple(row.options or ()), row.definition)

    @property
    def place(self) -> Place:
        """Schema and label."""
        return self.schema, self.label

    def __str__(self) -> str:
        return f"{self.kind} {self.schema}.{self.name}"


def find_dependents(connection: sa.Connection, oids: Iterable[int]) -> list[Dependent]:
    """Return what depends on tables and views, in the order of the object ids."""
    wanted = sorted(oids)
    if not wanted:
        return []
    rows = connection.execute(_DEPENDENTS, {"oids": wanted})
    return [Dependent.of(row, row.source) for row in rows]


def dependents_elsewhere(connection: sa.Connection, schema: str) -> list[str]:
    """Return what stands in other schemas and needs something in a schema: a table of it, a type, a sequence, ..."""
    return list(connection.execute(_ELSEWHERE, {"schema": schema}).scalars())
