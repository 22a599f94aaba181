"""The configuration: its files, its schema, what it resolves to, and what it makes stale."""
