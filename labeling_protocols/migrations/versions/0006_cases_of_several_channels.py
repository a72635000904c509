"""Further images of a case: registered series of one study beside the one that viewers open."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("cases", sa.Column("channels", sa.JSON()))  # cases from before have one image
