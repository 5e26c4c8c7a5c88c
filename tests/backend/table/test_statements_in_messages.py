"""Statements in error messages."""

from __future__ import annotations

from pipedag_airflow.backend.table.sql.literals import in_message


def test_a_statement_is_shown_whole_and_a_very_long_one_by_its_beginning() -> None:
    assert in_message("  SELECT 1\n") == "\nThe statement:\nSELECT 1"
    long = "INSERT " + "x" * 2_000_000
    shown = in_message(long)
    assert shown.startswith("\nThe statement, of which these are the first 4,000 of 2,000,007 characters:\nINSERT xx")
    assert len(shown) < 4_200
