"""The control plane: one transaction, one scope, SQLite or PostgreSQL."""
