"""An upload in one call. The body is the SQL file beside this one."""

from pathlib import Path

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Run the SQL body in one transaction."""
    op.get_bind().connection.driver_connection.execute(Path(__file__).with_suffix(".sql").read_text())
