"""A whole store verifies; what was changed behind its back is named, and its caches can be counted anew."""

import itertools
from collections.abc import Callable
from multiprocessing.synchronize import Barrier

import pytest
import sqlalchemy as sa

from apps.accounts import Accounts
from apps.settings import Site
from labeling_protocols import schema
from labeling_protocols.blobs import FolderBlobs
from labeling_protocols.edits import begin_edit, save_edit
from labeling_protocols.label import Label
from labeling_protocols.records import Account, Case, Part, Role
from labeling_protocols.settlement import adjudicate, settle
from labeling_protocols.store import Store
from labeling_protocols.verification import Verification, repair, verify
from labeling_protocols.worklist import next_case, skip
from tests.conftest import image_of, label_of
from tests.store.examples import numbered_label, seated_cases
from tests.store.processes import CONTEXT, together


@pytest.fixture
def used(store: Store, site: Site, accounts: Accounts, readers: tuple[Account, Account]) -> Store:
    """A store with a settled dispute, a consensus, a withdrawn read, a skipped case and a calibration case."""
    judge = accounts.add("judge", "judge-password", frozenset({Role.ADJUDICATOR}))
    cases = [add_case(store, seed) for seed in range(5)]
    store.set_calibration(cases[4].id, Label.of(label_of()))
    first, second = (claim_all(store, reader) for reader in readers)
    for number, case in enumerate(first):
        save(store, case, readers[0], 0)
        if case in second:
            save(store, case, readers[1], 3 if number == 0 else 0)
            settle(store, case.id)
    begin_edit(store, first[0].id, judge.id, "consensus:union")
    save_edit(store, first[0].id, judge.id, Label.of(label_of(1)))
    adjudicate(
        store,
        case_id=first[0].id,
        adjudicator=judge.id,
        parts=[Part(source=f"reader:{readers[0].id}")],
        rationale="the border is plain in the next slice",
        signing_key=site.signing_key,
    )
    store.withdraw(case_id=first[1].id, reader=readers[0].id, actor=readers[0].id, reason="wrong side")
    return store


def add_case(store: Store, seed: int) -> Case:
    return store.add_case(protocol="hippocampus", patient=f"P{seed}", volume=image_of(seed), modality="MR")[0]


def claim_all(store: Store, reader: Account) -> list[Case]:
    """Three cases this reader saved something of, and one he skipped."""
    found = []
    while (case := next_case(store, "hippocampus", reader.id)) is not None:
        if len(found) == 3:
            skip(store, case.id, reader.id, "no contrast")
            continue
        save(store, case, reader, 1)
        found.append(case)
    return found


def save(store: Store, case: Case, reader: Account, shift: int) -> None:
    store.save_read(case_id=case.id, reader=reader.id, label=Label.of(label_of(shift)))


def findings(store: Store, site: Site) -> list[str]:
    return [finding.words for finding in verified(store, site).findings]


def verified(store: Store, site: Site) -> Verification:
    return verify(store, site.public_key)


def change(store: Store, words: str, **values: object) -> None:
    """Change what the code never changes, with the triggers that forbid it out of the way."""
    with store.writing() as connection:
        if store.engine.dialect.name == "postgresql":
            connection.execute(sa.text("set session_replication_role = replica"))
            connection.execute(sa.text(words), values)
            connection.execute(sa.text("set session_replication_role = origin"))
            return
        names = connection.execute(sa.text("select name, sql from sqlite_master where type = 'trigger'")).all()
        for name, _ in names:
            connection.execute(sa.text(f"drop trigger {name}"))
        connection.execute(sa.text("pragma defer_foreign_keys = on"))
        connection.execute(sa.text(words), values)
        for _, statement in names:
            connection.exec_driver_sql(statement)


def test_a_store_in_use_is_whole(used: Store, site: Site) -> None:
    report = verified(used, site)
    assert [finding.words for finding in report.findings] == []
    assert report.blobs >= 8
    assert report.leftovers == 0
    assert report.chain.entries > 20


def test_a_damaged_and_a_missing_blob_are_named(used: Store, site: Site) -> None:
    assert isinstance(used.blobs, FolderBlobs)
    image, label = used.cases("hippocampus")[0].image, used.cases("hippocampus")[-1].image
    used.blobs.path(image).write_bytes(b"other bytes")
    used.blobs.path(label).unlink()
    assert sorted(image in words or label in words for words in findings(used, site)) == [True, True]


def test_a_blob_no_row_refers_to_is_no_finding(used: Store, site: Site) -> None:
    used.blobs.put(b"put by a process that was killed before its row")
    report = verified(used, site)
    assert report.findings == ()
    assert report.leftovers == 1


TAMPERED = {
    "update reads set revision = 7 where id = 1": "are 7",
    "update reads set label = :digest where id = 1": "no entry in the audit chain",
    "update audit set actor = 'nobody' where id = 9": "the audit chain is broken: entry 9",
    "update adjudications set rationale = 'another'": "the signature",
    "update adjudications set label = :digest": "is not that of the reader",
    "update edits set revision = 5 where revision = 1": "are 0, 5, not 0 and on",
    "update disputes set state = 'claimed'": "its holder is None",
    "update disputes set round = 0": "in round 0, decided in round 1",
    "delete from edits": "tells of an edit",
    "delete from withdrawals": "tells of a withdrawal",
    "update seats set state = 'claimed' where state = 'read'": "claimed, but reader",
    "update seats set reader = null where state = 'claimed'": "its reader is None",
}


def test_a_row_changed_behind_the_stores_back_is_noticed(used: Store, site: Site) -> None:
    before: set[str] = set()
    for words, found in TAMPERED.items():
        change(used, words, **({"digest": used.cases("hippocampus")[0].image} if ":digest" in words else {}))
        after = set(findings(used, site))
        assert any(found in finding for finding in after - before), words
        before = after


DRIFTED = (
    "update tallies set total = total + 1 where kind = 'reads'",
    "delete from tallies",
    "update cases set reads = reads + 1",
    "update cases set outcome = 'open', severity = 0.5",
    "update seats set rank = 3",
)


def test_a_cache_that_drifted_is_counted_anew(used: Store, site: Site) -> None:
    before = used.progress("hippocampus")
    for words in DRIFTED:
        change(used, words)
        found = verified(used, site).findings
        assert found
        assert all(finding.cache for finding in found)
        repair(used)
        assert findings(used, site) == []
        assert used.progress("hippocampus") == before


def test_a_repair_of_a_whole_store_changes_nothing(used: Store, site: Site) -> None:
    def rows() -> list[list[str]]:
        with used.engine.connect() as connection:
            return [
                sorted(str(row) for row in connection.execute(sa.select(table)) if "total" not in table.c or row.total)
                for table in schema.metadata.sorted_tables
            ]

    before = rows()
    repair(used)
    assert rows() == before


def test_progress_is_told_blob_by_blob(used: Store, site: Site) -> None:
    told: list[tuple[int, int]] = []
    tell: Callable[[int, int], None] = lambda done, total: told.append((done, total))  # noqa: E731  one line is plain
    report = verify(used, site.public_key, tell)
    assert told == [(number + 1, report.blobs) for number in range(report.blobs)]


def test_a_site_is_verified_while_readers_save(
    store: Store, site: Site, database_url: str, readers: tuple[Account, Account]
) -> None:
    cases = seated_cases(store, readers, 3)
    ended, saved = CONTEXT.Event(), CONTEXT.Semaphore(0)

    def work(own: Store, number: int, barrier: Barrier) -> list[str]:
        barrier.wait()
        if number == 2:
            found = findings(own, site)
            while saved.get_value() < 6:
                found += findings(own, site)
            ended.set()
            return found
        for turn in itertools.count():
            label = numbered_label(number * 1000 + turn)
            own.save_read(case_id=cases[turn % 3].id, reader=readers[number].id, label=label)
            saved.release()
            if ended.is_set():
                break
        return []

    assert together(store, database_url, 3, work) == [[], [], []]
    assert sum(len(store.reads(case.id)) for case in cases) == saved.get_value()
