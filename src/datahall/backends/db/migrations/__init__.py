"""The schema's way forward and back, one file a revision (https://alembic.sqlalchemy.org)."""
