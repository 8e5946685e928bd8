"""The whole export: replacing batches, revised keys, withdrawals, revoked signing keys. Its body: the SQL beside it."""

from pathlib import Path

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Run the SQL body in one transaction."""
    op.get_bind().connection.driver_connection.execute(Path(__file__).with_suffix(".sql").read_text())
