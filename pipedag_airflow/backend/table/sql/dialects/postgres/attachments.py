"""What others have attached to a table of PostgreSQL: triggers, policies of rows and comments, as statements.

PostgreSQL writes the statements itself; they name the table in the schema of the readers, where the next one of its
name arrives.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import attrs
import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["Attachment", "attachments", "warn_of_what_stays_behind"]

log = logging.getLogger(__name__)

_ATTACHMENTS = sa.text("""
    WITH tables AS (
        SELECT c.*, n.nspname, format('%I.%I', n.nspname, c.relname) AS place
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = :schema AND c.relname IN :names AND c.relkind IN ('r', 'p', 'v', 'm')
    )
    SELECT c.relname, 'trigger ' || t.tgname AS label, 1 AS rank,
        pg_catalog.pg_get_triggerdef(t.oid)
    FROM tables c JOIN pg_catalog.pg_trigger t ON t.tgrelid = c.oid WHERE NOT t.tgisinternal
    UNION ALL
    SELECT c.relname, 'state of the trigger ' || t.tgname, 2, format('ALTER TABLE %s %s TRIGGER %I', c.place,
        CASE t.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END, t.tgname)
    FROM tables c JOIN pg_catalog.pg_trigger t ON t.tgrelid = c.oid WHERE NOT t.tgisinternal AND t.tgenabled <> 'O'
    UNION ALL
    SELECT c.relname, 'policy ' || p.polname, 1,
        format('CREATE POLICY %I ON %s AS %s FOR %s TO %s', p.polname, c.place,
            CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
            CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE'
                ELSE 'ALL' END,
            (SELECT string_agg(CASE role WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(role)) END, ', ')
                FROM unnest(p.polroles) AS role))
        || coalesce(' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', '')
        || coalesce(' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', '')
    FROM tables c JOIN pg_catalog.pg_policy p ON p.polrelid = c.oid
    UNION ALL
    SELECT c.relname, 'row security', 1, format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', c.place)
    FROM tables c WHERE c.relrowsecurity
    UNION ALL
    SELECT c.relname, 'row security of the owner', 1, format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', c.place)
    FROM tables c WHERE c.relforcerowsecurity
    UNION ALL
    SELECT c.relname, 'comment', 2, format('COMMENT ON %s %s IS %L',
        CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END, c.place, d.description)
    FROM tables c JOIN pg_catalog.pg_description d
        ON d.classoid = 'pg_catalog.pg_class'::regclass AND d.objoid = c.oid AND d.objsubid = 0
    ORDER BY rank, label
""").bindparams(sa.bindparam("names", expanding=True))

_LEFT_BEHIND = sa.text("""
    SELECT c.relname, 'the publication ' || p.pubname AS label
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_publication_rel r ON r.prrelid = c.oid
    JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid
    WHERE n.nspname = :schema AND c.relname IN :names
    UNION ALL
    SELECT c.relname, 'the statistics object ' || s.stxname
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_statistic_ext s ON s.stxrelid = c.oid
    WHERE n.nspname = :schema AND c.relname IN :names
    ORDER BY 1, 2
""").bindparams(sa.bindparam("names", expanding=True))


@attrs.frozen
class Attachment:
    """Something that is attached to a table or view.

    Args:
        table: Name of the table or view.
        label: What it is, and its name; a table has one of a label.
        statement: What attaches it.
    """

    table: str
    label: str
    statement: str

    @property
    def key(self) -> tuple[str, str]:
        """Table and label."""
        return self.table, self.label


def attachments(connection: sa.Connection, schema: str, names: Collection[str]) -> list[Attachment]:
    """Return what is attached to tables and views of a schema."""
    if not names:
        return []
    rows = connection.execute(_ATTACHMENTS, {"schema": schema, "names": sorted(names)})
    return [Attachment(table, label, statement) for table, label, _, statement in rows]


def warn_of_what_stays_behind(connection: sa.Connection, schema: str, names: Collection[str]) -> None:
    """Log what is attached to tables that will be replaced, and will not be on those that replace them."""
    if not names:
        return
    for table, label in connection.execute(_LEFT_BEHIND, {"schema": schema, "names": sorted(names)}):
        log.warning(
            "%s.%s is replaced by a new table, which %s does not have; add it again after the publish, or let the "
            "task do it.",
            schema,
            table,
            label,
        )
