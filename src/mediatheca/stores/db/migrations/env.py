"""Run by alembic with the connection `migrate` opened."""

from alembic import context

from mediatheca.stores.db.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
