"""The store among many cases beside itself among ten; then its labels (`bench_labels.py`)."""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import sqlalchemy as sa
from bench_labels import LABEL_SHAPE_ZYX, changing, grid, label_rows, organs
from measuring import Row, compare, medians, seconds_of

from apps.accounts import Accounts
from apps.settings import make_site
from labeling_protocols import audit, schema, seats, tallies
from labeling_protocols.audit import Action
from labeling_protocols.geometry import Geometry
from labeling_protocols.label import Label
from labeling_protocols.label_codec import encode_label
from labeling_protocols.protocol import SHIPPED, Protocol, load_protocol
from labeling_protocols.records import Role
from labeling_protocols.store import Store
from labeling_protocols.worklist import next_case

CASES, READERS_OF_EACH, SEATS = 20_000, 5, 20
_FEW = 10
_SMALL_ZYX = (16, 32, 32)
_BATCH = 5_000
_MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


def store_rows(
    *, cases: int = CASES, shape_ZYX: tuple[int, int, int] = LABEL_SHAPE_ZYX, repeats: int = 41
) -> list[Row]:
    """Costs at ten cases over costs at `cases`, five reads each; then one label's, saved, read and weighed."""
    return [*scale_rows(cases, repeats), *label_rows(shape_ZYX, min(repeats, 15))]


# Scale


def scale_rows(cases: int, repeats: int) -> list[Row]:
    """`ours` is the cost at many cases, `peer` our own at ten."""
    goal = 1 / 1.5
    with _site(cases) as many, _site(_FEW) as few:
        steady = medians("scale next sample", many.next_sample, few.next_sample, goal, repeats)
        lapsed = medians(
            "scale next sample, a seat lapsed", many.next_after_lapse, few.next_after_lapse, None, repeats // 2
        )
        return [
            medians("scale save", many.save, few.save, goal, repeats),
            steady,
            lapsed,
            compare("scale status", many.status, few.status, goal, repeats),
        ]


class _Filled:
    """A site of many cases and what one reader does there, who has read all of them but the last few."""

    def __init__(self, store: Store, protocol: Protocol, readers: list[str], labels: Iterator[Label]) -> None:
        self._store, self._protocol, self._readers, self._labels = store, protocol, readers, labels
        self._free = iter([readers[0], *readers[READERS_OF_EACH + 1 : -1]])  # the last one only lets seats lapse
        self._reader = next(self._free)

    def next_sample(self) -> float:
        """The next case, which is then read so that another one comes next."""
        seconds, case_id = self._next()
        self._store.save_read(case_id=case_id, reader=self._reader, label=next(self._labels))
        return seconds

    def next_after_lapse(self) -> float:
        """The same just after another reader's seat on the very first case lapsed."""
        table = schema.seats
        first = sa.select(table).where(table.c.protocol == self._protocol.name, table.c.state == "free")
        with self._store.writing() as connection:
            seat = connection.execute(first.order_by(table.c.rank, table.c.case, table.c.place).limit(1)).one()
            seats.claim(connection, seat, self._readers[-1], datetime.now(UTC) - timedelta(days=2), timedelta(hours=1))
        return self.next_sample()

    def save(self) -> float:
        """A revision of the case that is open."""
        _, case_id = self._next()
        label = next(self._labels)
        return seconds_of(lambda: self._store.save_read(case_id=case_id, reader=self._reader, label=label))

    def status(self) -> object:
        return self._store.progress(self._protocol.name)

    def _next(self) -> tuple[float, str]:
        found: list[str] = []

        def ask() -> None:
            case = next_case(self._store, self._protocol.name, self._reader)
            found.extend([case.id] if case else [])

        seconds = seconds_of(ask)
        if not found:  # this reader has read them all
            self._reader = next(self._free)
            return self._next()
        return seconds, found[0]


@contextmanager
def _site(cases: int) -> Iterator[_Filled]:
    """A site whose cases have five reads each and free seats, with the audit chain that tells of them."""
    protocol = replace(load_protocol(SHIPPED / "hippocampus.yaml"), readers_per_case=SEATS, seat_lease_minutes=600)
    with tempfile.TemporaryDirectory() as folder:
        site = make_site(Path(folder) / "site")
        store = Store(site.database_url, site.blobs)
        store.add_protocol(protocol)
        accounts = Accounts(store, site)
        readers = [accounts.add(f"reader {n}", "a long password", frozenset({Role.READER})).id for n in range(SEATS)]
        geometry = grid(_SMALL_ZYX)
        labels = changing(Label(geometry=geometry, layers_LZYX=organs(_SMALL_ZYX)[np.newaxis] % 3))
        _fill(store, protocol, readers, cases, next(labels))
        yield _Filled(store, protocol, readers, labels)
        store.close()


def _fill(store: Store, protocol: Protocol, readers: list[str], cases: int, label: Label) -> None:
    digest = store.blobs.put(encode_label(label).content)
    unread = max(1, cases // 20) if cases > _FEW else cases  # what the first reader has not read
    for begin in range(0, cases, _BATCH):
        rows = [_case(protocol, number, label.geometry) for number in range(begin, min(begin + _BATCH, cases))]
        held: list[dict[str, object]] = []
        reads: list[dict[str, object]] = []
        for number, row in enumerate(rows, start=begin):
            first = 0 if number < cases - unread else 1
            for place, reader in enumerate(readers[first : first + READERS_OF_EACH]):
                held.append(_seat(protocol, row, place, reader))
                reads.append(_read(row, reader, digest))
            held += [_seat(protocol, row, place, None) for place in range(READERS_OF_EACH, SEATS)]
        with store.writing() as connection:
            connection.execute(sa.insert(schema.cases), rows)
            connection.execute(sa.insert(schema.seats), held)
            connection.execute(sa.insert(schema.reads), reads)
            _tell(connection, rows, reads)
    with store.writing() as connection:
        tallies.recount(connection, protocol.name, 1)
    with store.engine.connect() as connection:
        connection.execute(sa.text("PRAGMA wal_checkpoint(TRUNCATE)"))


def _case(protocol: Protocol, number: int, geometry: Geometry) -> dict[str, object]:
    image = hashlib.sha256(f"image {number}".encode()).hexdigest()
    return {
        "id": hashlib.sha256(f"{protocol.name}/{image}".encode()).hexdigest()[:16],
        "protocol": protocol.name,
        "patient": f"P{number:020}",
        "image": image,
        "geometry": geometry.as_json(),
        "modality": "MR",
        "series": None,
        "created": _MOMENT,
        "rank": float(number),
        "reads": READERS_OF_EACH,
    }


def _seat(protocol: Protocol, case: dict[str, object], place: int, reader: str | None) -> dict[str, object]:
    return {
        "case": case["id"],
        "since_version": 1,
        "place": place,
        "protocol": protocol.name,
        "rank": case["rank"],
        "group": "",
        "reader": reader,
        "state": "free" if reader is None else "read",
    }


def _read(case: dict[str, object], reader: str, digest: str) -> dict[str, object]:
    return {
        "case": case["id"],
        "reader": reader,
        "protocol_version": 1,
        "revision": 1,
        "label": digest,
        "voxels": {"anterior": 1, "posterior": 1},
        "volumes_ml": {"anterior": 0.001, "posterior": 0.001},
        "client": "bench",
        "prelabel_shown": False,
        "created": _MOMENT,
    }


def _tell(connection: sa.Connection, cases: list[dict[str, object]], reads: list[dict[str, object]]) -> None:
    """The audit chain goes on with every case and read; `audit.append` would ask for the last entry each time."""
    last = connection.execute(sa.select(schema.audit).order_by(schema.audit.c.id.desc()).limit(1)).one()
    previous, entry_id, rows = last.hash, last.id, []
    done = [(Action.CASE_ADDED, row["id"], "command line", {"image": row["image"]}) for row in cases]
    done += [
        (
            Action.READ_SAVED,
            read["case"],
            read["reader"],
            {"label": read["label"], "protocol_version": 1, "revision": 1},
        )
        for read in reads
    ]
    for action, subject, actor, details in done:
        entry_id += 1
        entry = audit.Entry(
            id=entry_id,
            at=_MOMENT.isoformat(),
            actor=str(actor),
            action=action.value,
            subject=str(subject),
            details=json.dumps(details, sort_keys=True),
            hash="",
        )
        previous = entry.hash_after(previous)
        rows.append({**entry.__dict__, "hash": previous})
    connection.execute(sa.insert(schema.audit), rows)
