"""A database of any earlier release opens with all it held."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from apps.settings import Site
from labeling_protocols import engine, schema
from labeling_protocols.adjudications import adjudication_of, adjudications, signature_holds
from labeling_protocols.disputes import standing_over
from labeling_protocols.engine import make_engine
from labeling_protocols.label import Label
from labeling_protocols.label_codec import encode_label
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Outcome, SeatState
from labeling_protocols.settlement import disputes, judge, settle, truth, truths
from labeling_protocols.store import Store
from labeling_protocols.verification import verify
from labeling_protocols.worklist import next_case, own_work, seats
from tests.conftest import OBLIQUE, label_of

MOMENT = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, site: Site) -> str:
    """A database without tables."""
    if request.param == "sqlite":
        return site.database_url
    return str(request.getfixturevalue("postgres").new_database())


def test_the_migrations_make_the_tables_the_code_expects(store: Store) -> None:
    with store.engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection), schema.metadata)
    assert found == []


def first_release(url: str, site: Site, protocol: Protocol) -> None:
    """A database as the first release left it: one case read by both readers, one by one, one untouched."""
    made = make_engine(url)
    digest = site.blobs.put(encode_label(Label.of(label_of())).content)
    with made.connect().execution_options(writes=True) as connection, connection.begin():
        old = _at_revision(connection, "0001")

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


def second_release(url: str, site: Site, protocol: Protocol) -> None:
    """A database as the second release left it: four cases judged, of which two were adjudicated.

    case0 was decided twice, as one of its readers saved again; case3's decision lost a read to a withdrawal.
    """
    made = make_engine(url)
    digests = [site.blobs.put(encode_label(Label.of(label_of(shift))).content) for shift in (0, 3)]
    with made.connect().execution_options(writes=True) as connection, connection.begin():
        old = _at_revision(connection, "0002")

        def insert(table: str, **values: object) -> None:
            moments = {"created": MOMENT} if "created" in old.tables[table].c else {}
            connection.execute(sa.insert(old.tables[table]).values(moments | values))

        content = protocol.as_json()
        insert("protocols", name="hippocampus", version=1, since_version=1, digest=protocol.digest, content=content)
        for name in ("ann", "ben", "judge"):
            values = {"password": "x", "disabled": False, "groups": [], "failures": 0}
            insert("accounts", id=name, name=name, roles=["reader"], **values)
        outcomes = ("settled", "disputed", "agreed", "settled")
        for number, outcome in enumerate(outcomes):
            values = {"patient": "P", "image": f"{number}" * 64, "geometry": OBLIQUE.as_json(), "modality": "MR"}
            place = {
                "rank": 0.0,
                "reads": 1 if number == 3 else 2,
                "outcome": outcome,
                "severity": 0.3 * (outcome == "disputed"),
            }
            insert("cases", id=f"case{number}", protocol="hippocampus", **values, **place)
        for number in range(4):
            for place, reader in enumerate(("ann", "ben")):
                state = "claimed" if (number, place) == (3, 1) else "read"
                seat = {"since_version": 1, "place": place, "protocol": "hippocampus", "rank": 0.0, "group": ""}
                lease = {"opened": MOMENT, "lease_until": MOMENT, "reopened": False}
                insert("seats", case=f"case{number}", reader=reader, state=state, **seat, **lease)
                label = digests[place if number != 2 else 0]
                _insert_read(insert, 2 * number + place + 1, f"case{number}", reader, 1, label)
        _insert_read(insert, 9, "case0", "ben", 2, digests[0])
        insert("withdrawals", read=8, actor="ben", reason="wrong series")
        for number, case, reads, label in ((1, "case0", "1,2", 0), (2, "case0", "1,9", 0), (3, "case3", "7,8", 0)):
            row = {"case": case, "adjudicator": "judge", "choice": "ann", "rationale": "plain", "reads": reads}
            row |= {"label": digests[label], "created": MOMENT}
            text = json.dumps({**row, "created": MOMENT.isoformat()}, sort_keys=True).encode()
            insert("adjudications", id=number, **row, signature=site.signing_key.sign(text).hex())
        judged = {"reads": "3,4", "protocol_version": 1, "agreed": False, "severity": 0.3, "consensus": None}
        verdict = {"pairs": [], "reasons": ["anterior: Dice 0.25 < 0.75"], "severity": 0.3}
        insert("verdicts", case="case1", verdict=verdict, **judged)
        for kind, total in (("cases", 4), ("settled", 2), ("disputed", 1), ("agreed", 1)):
            insert("tallies", protocol="hippocampus", kind=kind, reader="", total=total)
        for reader, total in (("ann", 4), ("ben", 3)):
            insert("tallies", protocol="hippocampus", kind="reads", reader=reader, total=total)
    made.dispose()


def _insert_read(insert: Callable[..., None], number: int, case: str, reader: str, revision: int, label: str) -> None:
    values = {"voxels": {"anterior": 64, "posterior": 64}, "volumes_ml": {}, "client": "3D Slicer"}
    values |= {"protocol_version": 1, "revision": revision, "label": label, "prelabel_shown": False}
    insert("reads", id=number, case=case, reader=reader, **values)


def _at_revision(connection: sa.Connection, revision: str) -> sa.MetaData:
    config = Config()
    config.set_main_option("script_location", str(Path(engine.__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
    old = sa.MetaData()
    old.reflect(connection)
    return old


def test_a_database_of_the_second_release_keeps_its_decisions_and_judges_the_rest_again(
    site: Site, database_url: str, protocol: Protocol
) -> None:
    second_release(database_url, site, protocol)
    store = Store(database_url, site.blobs)
    first, second = adjudications(store, "case0")
    assert (first.round, second.round, second.settles, second.parts, second.basis) == (1, 2, True, (), None)
    assert all(signature_holds(decision, site.public_key) for decision in (first, second))
    assert adjudication_of(store, "case0") == second
    found = standing_over(store, "case0")
    assert found is not None
    assert (found.state, found.round, found.since) == ("settled", 2, MOMENT)
    assert (adjudication_of(store, "case3"), truth(store, "case3")) == (None, None)
    assert [case.id for case in store.cases("hippocampus", (Outcome.OPEN,))] == ["case3"]
    progress = store.progress("hippocampus")
    assert (progress.cases, progress.truths, progress.disputes) == (4, 1, 0)
    assert judge(store, "hippocampus") == 2
    assert [dispute.case for dispute in disputes(store, "hippocampus")] == ["case1"]
    assert {known.case.id for known in truths(store, "hippocampus")} == {"case0", "case2"}
    wrong = [finding.words for finding in verify(store, site.public_key).findings]
    assert [words for words in wrong if "blob" not in words and "audit chain" not in words] == []
    store.close()


@pytest.mark.parametrize("table", ["adjudications", "reopenings", "edits"])
def test_what_is_decided_and_drawn_is_never_changed_or_deleted(
    site: Site, database_url: str, protocol: Protocol, table: str
) -> None:
    second_release(database_url, site, protocol)
    store = Store(database_url, site.blobs)
    with store.writing() as connection:
        row = {"case": "case0", "round": 1, "created": MOMENT}
        connection.execute(sa.insert(schema.reopenings).values(actor="judge", reason="look again", **row))
        drawn = {"adjudicator": "judge", "revision": 0, "source": "none", "label": "0" * 64}
        connection.execute(sa.insert(schema.edits).values(**row, **drawn))
    for act in (f"update {table} set round = 9", f"delete from {table}"):
        with pytest.raises(sa.exc.DBAPIError, match="never changed or deleted"), store.writing() as connection:
            connection.execute(sa.text(act))
    store.close()
