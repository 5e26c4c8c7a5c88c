"""The verbs on functions, sequences and types, as SQLAlchemy elements.

What they are about is named as the database itself writes it down: with its schema and the types of its arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.ext.compiler import compiles

from pipedag_airflow.backend.table.sql.ddl import Verb, grantee, option

if TYPE_CHECKING:
    from sqlalchemy.sql.compiler import DDLCompiler

    from pipedag_airflow.backend.table.sql.facts import DefinitionType

__all__ = ["DropDefinition", "GrantOnDefinition", "MoveDefinition", "RevokeAllOnDefinition"]


class _OnDefinition(Verb):
    def __init__(self, kind: DefinitionType, identity: str) -> None:
        self.kind, self.identity = kind, identity

    @property
    def escaped(self) -> str:
        """The identity; the drivers take a % for the place of a parameter."""
        return self.identity.replace("%", "%%")

    @property
    def named(self) -> str:
        """What the verb is about."""
        return f"{self.kind.value} {self.escaped}"


class MoveDefinition(_OnDefinition):
    """``ALTER kind identity SET SCHEMA target``."""

    def __init__(self, kind: DefinitionType, identity: str, target: str) -> None:
        super().__init__(kind, identity)
        self.target_schema = target


@compiles(MoveDefinition)
def _move_definition(verb: MoveDefinition, compiler: DDLCompiler, **_: Any) -> str:
    return f"ALTER {verb.named} SET SCHEMA {compiler.preparer.quote(verb.target_schema)}"


class DropDefinition(_OnDefinition):
    """``DROP kind IF EXISTS identity``."""


@compiles(DropDefinition)
def _drop_definition(verb: DropDefinition, _compiler: DDLCompiler, **_: Any) -> str:
    return f"DROP {verb.kind.value} IF EXISTS {verb.escaped}"


class GrantOnDefinition(_OnDefinition):
    """``GRANT privilege ON kind identity TO role``; a role of None is everybody."""

    def __init__(
        self, privilege: str, kind: DefinitionType, identity: str, role: str | None, *, grantable: bool
    ) -> None:
        super().__init__(kind, identity)
        self.privilege, self.role, self.grantable = privilege, role, grantable


@compiles(GrantOnDefinition)
def _grant_on_definition(verb: GrantOnDefinition, compiler: DDLCompiler, **_: Any) -> str:
    return f"GRANT {verb.privilege} ON {verb.named} TO {grantee(compiler, verb.role)}{option(verb.grantable)}"


class RevokeAllOnDefinition(_OnDefinition):
    """``REVOKE ALL ON kind identity FROM role``; a role of None is everybody."""

    def __init__(self, kind: DefinitionType, identity: str, role: str | None) -> None:
        super().__init__(kind, identity)
        self.role = role


@compiles(RevokeAllOnDefinition)
def _revoke_all_on_definition(verb: RevokeAllOnDefinition, compiler: DDLCompiler, **_: Any) -> str:
    return f"REVOKE ALL ON {verb.named} FROM {grantee(compiler, verb.role)} CASCADE"
