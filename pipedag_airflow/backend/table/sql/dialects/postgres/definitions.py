"""Functions, sequences and types of PostgreSQL: what a script may make besides tables and views."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import attrs
import sqlalchemy as sa

from pipedag_airflow.backend.table.sql.ddl import DropObject
from pipedag_airflow.backend.table.sql.dialects.postgres.catalog import relations, written_by_us
from pipedag_airflow.backend.table.sql.dialects.postgres.definitions_ddl import (
    DropDefinition,
    GrantOnDefinition,
    MoveDefinition,
    RevokeAllOnDefinition,
)
from pipedag_airflow.backend.table.sql.dialects.postgres.dependents import ROUTINE_LABEL, Dependent
from pipedag_airflow.backend.table.sql.facts import DefinitionType

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from pipedag_airflow.backend.metadata import Place

__all__ = [
    "Definition",
    "copy_grants",
    "definition_dependents",
    "definitions",
    "drops",
    "move_definition",
    "naming_in_text",
]

# Sequences of columns move with their tables, the types of arrays with those of their elements; what belongs to an
# extension goes with it.
_FOUND = f"""
    WITH found AS (
        SELECT 'pg_catalog.pg_proc'::regclass AS catalog, p.oid, p.pronamespace AS namespace, {ROUTINE_LABEL} AS label,
            'ROUTINE' AS kind, 0::oid AS array_type, p.proowner AS owner, p.proacl AS acl, 'f'::"char" AS acl_kind,
            p.xmin AS writer
        FROM pg_catalog.pg_proc p
        UNION ALL
        SELECT 'pg_catalog.pg_class'::regclass, c.oid, c.relnamespace, 'sequence ' || c.relname,
            'SEQUENCE', 0, c.relowner, c.relacl, 's', c.xmin
        FROM pg_catalog.pg_class c
        WHERE c.relkind = 'S' AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_depend d
            WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')
        )
        UNION ALL
        SELECT 'pg_catalog.pg_type'::regclass, t.oid, t.typnamespace, 'type ' || t.typname,
            'TYPE', t.typarray, t.typowner, t.typacl, 'T', t.xmin
        FROM pg_catalog.pg_type t
        LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
        WHERE coalesce(c.relkind, 'c') = 'c'
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_type element WHERE element.typarray = t.oid)
    )
"""  # noqa: S608 - put together from constants

# The namespaces are an array, not a join: so the planner looks at them first. The labels of all the functions that a
# server has, thousands of them, take a tenth of a second.
_DEFINITIONS = sa.text(f"""
    {_FOUND}
    SELECT n.nspname, f.label, f.catalog::oid AS catalog, f.oid, f.kind, f.array_type,
        (pg_catalog.pg_identify_object(f.catalog, f.oid, 0)).identity,
        EXISTS (
            SELECT FROM pg_catalog.pg_depend d WHERE d.classid = f.catalog AND d.objid = f.oid AND d.deptype = 'i'
        ) AS is_part
    FROM found f
    JOIN pg_catalog.pg_namespace n ON n.oid = f.namespace
    WHERE f.namespace = ANY (ARRAY(SELECT oid FROM pg_catalog.pg_namespace WHERE nspname IN :schemas)) AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_depend d WHERE d.classid = f.catalog AND d.objid = f.oid AND d.deptype = 'e'
    ) AND (NOT :own OR {written_by_us("f.writer")})
    ORDER BY f.oid
""").bindparams(sa.bindparam("schemas", expanding=True))  # noqa: S608 - put together from constants

_GRANTS = sa.text(f"""
    {_FOUND}
    SELECT g.privilege_type, r.rolname, g.is_grantable
    FROM found f
    CROSS JOIN LATERAL pg_catalog.aclexplode(coalesce(f.acl, pg_catalog.acldefault(f.acl_kind, f.owner))) g
    LEFT JOIN pg_catalog.pg_roles r ON r.oid = g.grantee
    WHERE f.catalog = :catalog AND f.oid = :oid AND g.grantee <> f.owner
""")  # noqa: S608 - put together from constants

_IDENTITY = sa.text("SELECT identity FROM pg_catalog.pg_identify_object(:catalog, :oid, 0)")

_TEXTS = sa.text("""
    SELECT p.oid, pg_catalog.concat_ws(' ', CASE WHEN p.prosqlbody IS NULL THEN p.prosrc END, p.proconfig::text) AS text
    FROM pg_catalog.pg_proc p
    WHERE p.oid IN :oids
""").bindparams(sa.bindparam("oids", expanding=True))

_DEPENDENTS = sa.text(f"""
    WITH dependent AS (
        SELECT d.refclassid::oid AS source_catalog, d.refobjid AS source, d.classid, d.objid,
            coalesce(
                r.ev_class, a.adrelid, g.tgrelid, nullif(k.conrelid, 0), i.indrelid,
                CASE WHEN d.classid = 'pg_catalog.pg_class'::regclass THEN d.objid END
            ) AS relation,
            coalesce(
                nullif(k.contypid, 0), CASE WHEN d.classid = 'pg_catalog.pg_type'::regclass THEN d.objid END
            ) AS type
        FROM pg_catalog.pg_depend d
        LEFT JOIN pg_catalog.pg_rewrite r ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND r.oid = d.objid
        LEFT JOIN pg_catalog.pg_attrdef a ON d.classid = 'pg_catalog.pg_attrdef'::regclass AND a.oid = d.objid
        LEFT JOIN pg_catalog.pg_trigger g ON d.classid = 'pg_catalog.pg_trigger'::regclass AND g.oid = d.objid
        LEFT JOIN pg_catalog.pg_constraint k ON d.classid = 'pg_catalog.pg_constraint'::regclass AND k.oid = d.objid
        LEFT JOIN pg_catalog.pg_index i ON d.classid = 'pg_catalog.pg_class'::regclass AND i.indexrelid = d.objid
        WHERE d.refobjid IN :oids AND d.deptype <> 'i' AND d.refclassid IN (
            'pg_catalog.pg_proc'::regclass, 'pg_catalog.pg_class'::regclass, 'pg_catalog.pg_type'::regclass
        )
    )
    SELECT DISTINCT d.source_catalog, d.source, n.nspname AS schema, c.oid,
        c.relname AS name, CASE c.relkind WHEN 'c' THEN 'type ' ELSE '' END || c.relname AS label,
        CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'c' THEN 'type' ELSE 'table' END
            AS kind,
        o.rolname AS owner, pg_catalog.pg_has_role(c.relowner, 'USAGE') AS changeable, c.reloptions AS options,
        CASE c.relkind WHEN 'v' THEN pg_catalog.pg_get_viewdef(c.oid) END AS definition
    FROM dependent d
    JOIN pg_catalog.pg_class c ON c.oid = d.relation
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_roles o ON o.oid = c.relowner
    UNION ALL
    SELECT DISTINCT d.source_catalog, d.source, n.nspname, p.oid, p.proname, {ROUTINE_LABEL}, 'function',
        NULL::name, false, NULL::text[], NULL
    FROM dependent d
    JOIN pg_catalog.pg_proc p ON d.classid = 'pg_catalog.pg_proc'::regclass AND p.oid = d.objid
    JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    UNION ALL
    SELECT DISTINCT d.source_catalog, d.source, n.nspname, t.oid, t.typname, 'type ' || t.typname, 'type',
        NULL::name, false, NULL::text[], NULL
    FROM dependent d
    JOIN pg_catalog.pg_type t ON t.oid = d.type
    JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
    ORDER BY oid, source
""").bindparams(sa.bindparam("oids", expanding=True))  # noqa: S608 - put together from constants


@attrs.frozen
class Definition:
    """A function, a sequence or a type.

    Args:
        catalog: Object id of the catalog that has it.
        oid: Its object id.
        kind: What it is.
        identity: Its name with its schema and its arguments, as the database writes it.
        array_type: Object id of the type of arrays of a type, else 0.
        is_part: Whether it belongs to another one, with which it is dropped: the constructor of a range for example.
    """

    catalog: int
    oid: int
    kind: DefinitionType
    identity: str
    array_type: int
    is_part: bool


def definitions(connection: sa.Connection, schemas: Sequence[str], *, own: bool = False) -> dict[Place, Definition]:
    """Return the functions, sequences and types of schemas by (schema, label), in the order in which they were made.

    Args:
        connection: An open connection.
        schemas: The schemas.
        own: Whether to return only what this transaction has made, or changed.
    """
    rows = connection.execute(_DEFINITIONS, {"schemas": list(schemas), "own": own})
    return {
        (row.nspname, row.label): Definition(
            row.catalog, row.oid, DefinitionType(row.kind), row.identity, row.array_type, row.is_part
        )
        for row in rows
    }


def drops(connection: sa.Connection, schema: str) -> list[tuple[str, sa.schema.ExecutableDDLElement]]:
    """Return what drops each table, view, function, sequence and type of a schema, the newest first.

    What belongs to another one is dropped with it.
    """
    found = [
        *((oid, name, DropObject(kind, schema, name)) for oid, name, kind in relations(connection, schema)),
        *(
            (other.oid, label, DropDefinition(other.kind, other.identity))
            for (_, label), other in definitions(connection, [schema]).items()
            if not other.is_part
        ),
    ]
    return [(name, drop) for _, name, drop in sorted(found, key=lambda one: one[0], reverse=True)]


def naming_in_text(connection: sa.Connection, schema: str, labels: Collection[str]) -> list[str]:
    """Return the labels of the functions in a schema that name it in a text, which follows nothing that moves."""
    there = {other.oid: label for (_, label), other in definitions(connection, [schema]).items() if label in labels}
    if not there:
        return []
    name = re.compile(rf"(?<!\w){re.escape(schema)}(?!\w)", re.IGNORECASE)
    rows = connection.execute(_TEXTS, {"oids": sorted(there)})
    return sorted(there[row.oid] for row in rows if name.search(row.text))


def move_definition(connection: sa.Connection, definition: Definition, schema: str) -> None:
    """Move a function, a sequence or a type; by what it is called now, as types among its arguments may have moved."""
    named = connection.execute(_IDENTITY, {"catalog": definition.catalog, "oid": definition.oid}).scalar_one()
    connection.execute(MoveDefinition(definition.kind, named, schema))


def copy_grants(connection: sa.Connection, granted: Mapping[str, Definition], onto: Mapping[str, Definition]) -> None:
    """Grant on definitions what is granted on those that they replace, by label, and nothing more."""
    for old, new in ((granted[label], onto[label]) for label in sorted(granted.keys() & onto.keys())):
        if new.is_part:
            continue  # it goes by the privileges of what it belongs to
        for grant in _grants(connection, new):
            connection.execute(RevokeAllOnDefinition(new.kind, new.identity, grant.rolname))
        for grant in _grants(connection, old):
            connection.execute(
                GrantOnDefinition(
                    grant.privilege_type, new.kind, new.identity, grant.rolname, grantable=grant.is_grantable
                )
            )


def _grants(connection: sa.Connection, definition: Definition) -> Sequence[Any]:
    return connection.execute(_GRANTS, {"catalog": definition.catalog, "oid": definition.oid}).all()


def definition_dependents(connection: sa.Connection, sources: Iterable[Definition]) -> list[Dependent]:
    """Return what depends on functions, sequences and types, in the order of the object ids."""
    known = {(source.catalog, oid): source for source in sources for oid in (source.oid, source.array_type) if oid}
    if not known:
        return []
    rows = connection.execute(_DEPENDENTS, {"oids": sorted({oid for _, oid in known})})
    return [
        Dependent.of(row, known[row.source_catalog, row.source].oid)
        for row in rows
        if (row.source_catalog, row.source) in known
    ]
