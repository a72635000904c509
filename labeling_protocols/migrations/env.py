"""Alembic's entry: a connection inside its transaction in, its database at the newest revision out."""

from alembic import context

from labeling_protocols.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
