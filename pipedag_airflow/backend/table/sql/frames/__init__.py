"""Kinds of table objects that pass between tasks and the database; a small class each, found by entry point."""
