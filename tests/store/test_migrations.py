"""A database of any earlier release opens with all it held."""

from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from apps.settings import Site
from labeling_protocols import engine, schema
from labeling_protocols.engine import make_engine
from labeling_protocols.label import Label
from labeling_protocols.label_codec import encode_label
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Outcome, SeatState
from labeling_protocols.settlement import settle, truth
from labeling_protocols.store import Store
from labeling_protocols.worklist import next_case, own_work, seats
from tests.conftest import OBLIQUE, label_of

MOMENT = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)


def test_the_migrations_make_the_tables_the_code_expects(store: Store) -> None:
    with store.engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection), schema.metadata)
    assert found == []


def first_release(url: str, site: Site, protocol: Protocol) -> None:
    """A database as the first release left it: one case read by both readers, one by one, one untouched."""
    config = Config()
    config.set_main_option("script_location", str(Path(engine.__file__).parent / "migrations"))
    made = make_engine(url)
    digest = site.blobs.put(encode_label(Label.of(label_of())).content)
    with made.connect().execution_options(writes=True) as connection, connection.begin():
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        old = sa.MetaData()
        old.reflect(connection)

        def insert(table: str, **values: object) -> None:
            rows = old.tables[table]
            moments = {name: MOMENT for name in ("created", "lease_until", "expires") if name in rows.c}
            connection.execute(sa.insert(rows).values(moments | values))

        insert("protocols", name="hippocampus", version=1, digest=protocol.digest, content=protocol.as_json())
        for name in ("ann", "ben"):
            insert("accounts", id=name, name=name, password="x", roles=["reader"], disabled=False)
        for number in range(3):
            insert(
                "cases",
                id=f"case{number}",
                protocol="hippocampus",
                patient=f"P{number}",
                image=f"{number}" * 64,
                geometry=OBLIQUE.as_json(),
                modality="MR",
            )
        for case, place, reader, state in (
            ("case0", 0, "ann", "read"),
            ("case0", 1, "ben", "read"),
            ("case1", 1, "ann", "claimed"),
        ):
            insert("seats", case=case, place=place, reader=reader, state=state)
        for number, reader in enumerate(("ann", "ben"), 1):
            insert(
                "reads",
                id=number,
                case="case0",
                reader=reader,
                protocol_version=1,
                revision=1,
                label=digest,
                voxels={"anterior": 64, "posterior": 64},
                client="3D Slicer",
            )
        insert("prelabels", case="case1", model="hippocampus-segmentation 1", label=digest)
        insert("addresses", secret="f" * 64, account="ann", revoked=False)
    made.dispose()


def test_a_database_of_the_first_release_keeps_its_reads_seats_and_truths(
    site: Site, database_url: str, protocol: Protocol
) -> None:
    first_release(database_url, site, protocol)
    store = Store(database_url, site.blobs)
    read = store.reads("case0", "ann")[0]
    x, y, z = OBLIQUE.spacing_mm_XYZ
    assert (read.revision, read.voxels["anterior"], read.provenance.client) == (1, 64, "3D Slicer")
    assert abs(read.volumes_ml["anterior"] - 64 * x * y * z / 1000) < 1e-9
    assert (read.withdrawn, read.provenance.prelabel_shown) == (False, False)
    assert [(seat.reader, seat.state) for seat in seats(store, "case1")] == [
        (None, SeatState.FREE),
        ("ann", SeatState.CLAIMED),
    ]
    progress = store.progress("hippocampus")
    assert (progress.cases, progress.by_reader) == (3, {"ann": 1, "ben": 1})
    assert [case.id for case in store.cases("hippocampus", (Outcome.UNJUDGED,))] == ["case0"]
    assert settle(store, "case0") is not None
    assert truth(store, "case0") is not None
    ben = next_case(store, "hippocampus", "ben")
    assert ben is not None
    assert ben.id in ("case1", "case2")
    assert {work.case for work in own_work(store, "hippocampus", "ben")} == {"case0", ben.id}
    store.close()
