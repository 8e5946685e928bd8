"""Quality results, retention, deletion on demand. The body is the SQL file beside this one."""

from pathlib import Path

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Run the SQL body in one transaction."""
    op.get_bind().connection.driver_connection.execute(Path(__file__).with_suffix(".sql").read_text())
