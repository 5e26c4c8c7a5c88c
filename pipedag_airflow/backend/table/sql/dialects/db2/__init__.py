"""IBM Db2: its table store, and what that says differently from other databases."""
