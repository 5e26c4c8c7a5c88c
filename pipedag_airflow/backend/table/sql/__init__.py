"""Table stores in SQL databases."""
