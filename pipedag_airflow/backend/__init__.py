"""Where data and state live: table stores, metadata, blob stores, lock managers."""
