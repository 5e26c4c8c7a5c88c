"""Microsoft SQL Server: its table store, and what that says differently from other databases."""
