"""A publish on PostgreSQL that waits for no reader: the schema of the stage is replaced by a new one.

Readers hold locks on tables, not on schemas; so a schema can get another name while its tables are read. It becomes the
archive, and a new one gets its name, its owner, its comment and its privileges.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from pipedag_airflow.backend.table.sql import ddl
from pipedag_airflow.backend.table.sql.dialects.postgres.catalog import content as content_of
from pipedag_airflow.backend.table.sql.dialects.postgres.catalog import relations
from pipedag_airflow.backend.table.sql.dialects.postgres.ddl import (
    AlterOwner,
    CommentOnSchema,
    GrantDefault,
    GrantOnSchema,
    RenameSchema,
    SetSchema,
)
from pipedag_airflow.backend.table.sql.dialects.postgres.definitions import definitions, drops, move_definition
from pipedag_airflow.backend.table.sql.dialects.postgres.dependents import dependents_elsewhere
from pipedag_airflow.backend.table.sql.dialects.postgres.relocation import PostgresRelocation
from pipedag_airflow.backend.table.sql.names import is_marked
from pipedag_airflow.errors import TableBusyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipedag_airflow.backend.table.sql.dialects.postgres.dependents import Dependent

__all__ = ["PostgresReplacement"]

_OTHER_CONTENT = sa.text("""
    SELECT p.oid, 'the function ' || p.proname AS shown
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname = :schema
    UNION ALL
    SELECT t.oid, 'the type ' || t.typname
    FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
    WHERE n.nspname = :schema AND t.typrelid = 0 AND t.typelem = 0
    UNION ALL
    SELECT c.oid, 'the sequence ' || c.relname
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = :schema AND c.relkind = 'S' AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_depend d
        WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')
    )
""")

_SCHEMA = sa.text("""
    SELECT o.rolname, pg_catalog.obj_description(n.oid, 'pg_namespace')
    FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles o ON o.oid = n.nspowner
    WHERE n.nspname = :schema
""")

_SCHEMA_GRANTS = sa.text("""
    SELECT g.privilege_type, r.rolname, g.is_grantable
    FROM pg_catalog.pg_namespace n
    CROSS JOIN LATERAL pg_catalog.aclexplode(n.nspacl) g
    LEFT JOIN pg_catalog.pg_roles r ON r.oid = g.grantee
    WHERE n.nspname = :schema AND g.grantee <> n.nspowner
""")

_DEFAULTS = sa.text("""
    SELECT g.privilege_type, o.rolname AS owner, r.rolname AS role, g.is_grantable,
        CASE d.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS' ELSE 'TYPES' END
    FROM pg_catalog.pg_default_acl d
    JOIN pg_catalog.pg_namespace n ON n.oid = d.defaclnamespace
    JOIN pg_catalog.pg_roles o ON o.oid = d.defaclrole
    CROSS JOIN LATERAL pg_catalog.aclexplode(d.defaclacl) g
    LEFT JOIN pg_catalog.pg_roles r ON r.oid = g.grantee
    WHERE n.nspname = :schema
""")


class PostgresReplacement(PostgresRelocation):
    """A relocation that does not wait for those who read what leaves; takes the same arguments.

    What is to stay in the schema, of ours or of others, must be free: it moves to the new schema.
    """

    def _lock(self, views: Sequence[Dependent]) -> list[Dependent]:
        """Lock only the views of others that will be changed."""
        for view in views:
            assert view.owner is not None
            self.connection.execute(AlterOwner(view.place, view.owner))
        return list(views)

    def _move(self) -> None:
        schema, archive = self.relocation.schema, self.relocation.archive
        gone = {move.source for move in self.relocation.leaving}
        there = {(schema, name) for _, name, _ in relations(self.connection, schema)}
        defined = {
            place: other for place, other in definitions(self.connection, [schema]).items() if place in self.ours
        }
        for name, drop in drops(self.connection, archive):
            if is_marked(name) and (archive, name) not in self.ours:
                self.connection.execute(drop)
        self._refuse_other_content({other.oid for other in defined.values()})
        grants = self._schema_grants()
        owner, comment = self.connection.execute(_SCHEMA, {"schema": schema}).one()
        self.connection.execute(ddl.DropSchema(archive))
        self.connection.execute(RenameSchema(schema, archive))
        self.connection.execute(ddl.CreateSchema(schema, owner))
        if comment is not None:
            self.connection.execute(CommentOnSchema(schema, comment))
        for grant in grants:
            self.connection.execute(grant)
        for _, name in sorted(there - gone):
            self.connection.execute(SetSchema((archive, name), schema))
        for place in defined.keys() - gone:
            move_definition(self.connection, defined[place], schema)
        for move in self.relocation.arriving:
            self._move_one(move)

    def _refuse_other_content(self, ours: set[int]) -> None:
        """Refuse where a new schema would not have all that the old one has, or the old one cannot be the archive."""
        content = self.connection.execute(_OTHER_CONTENT, {"schema": self.relocation.schema})
        others = [row.shown for row in content if row.oid not in ours]
        others += content_of(self.connection, self.relocation.archive)
        others += dependents_elsewhere(self.connection, self.relocation.archive)
        others += ["views of generations"] * bool(self.relocation.obsolete)
        if others:
            raise TableBusyError(
                f"Schema {self.relocation.schema!r} cannot be replaced by a new one either, because of "
                f"{', '.join(others[:5])}."
            )

    def _schema_grants(self) -> list[Any]:
        """Return what gives a new schema the privileges of the present one."""
        schema = self.relocation.schema
        granted: Any = self.connection.execute(_SCHEMA_GRANTS, {"schema": schema})
        defaults: Any = self.connection.execute(_DEFAULTS, {"schema": schema})
        return [
            *(GrantOnSchema(privilege, schema, role, grantable=grantable) for privilege, role, grantable in granted),
            *(
                GrantDefault(privilege, schema, objects, owner, role, grantable=grantable)
                for privilege, owner, role, grantable, objects in defaults
            ),
        ]
