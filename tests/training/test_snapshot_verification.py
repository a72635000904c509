"""A snapshot is held against its store: what the store does not bear out is wrong, what happened since is told."""

from dataclasses import replace

import pytest
import sqlalchemy as sa

from apps.accounts import Accounts
from apps.settings import Site
from labeling_protocols import schema
from labeling_protocols.blobs import FolderBlobs
from labeling_protocols.disputes import reopen
from labeling_protocols.label import Label
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Account, Case, Role
from labeling_protocols.settlement import settle
from labeling_protocols.store import Store
from labeling_protocols.strata import Strata
from tests.conftest import image_of, label_of
from tests.store.test_verification import change
from tests.training.snapshot_examples import NAME, adjudicated_case, decide, read_case
from training.snapshot import Snapshot, keep_snapshot
from training.snapshot_diff import What
from training.snapshot_index import Taken, take
from training.snapshot_verification import Verification, verify


@pytest.fixture
def judge(accounts: Accounts) -> Account:
    return accounts.add("judge", "judge-password", frozenset({Role.ADJUDICATOR}))


@pytest.fixture
def cases(store: Store, site: Site, readers: tuple[Account, Account], judge: Account) -> list[Case]:
    """Four cases of consensus and one that was adjudicated."""
    return [
        *(read_case(store, readers, number) for number in range(4)),
        adjudicated_case(store, site, readers, judge, 4),
    ]


@pytest.fixture
def taken(store: Store, site: Site, cases: list[Case]) -> Taken:
    return take(store, NAME, secret=site.secret)


def verified(store: Store, site: Site, taken: Taken) -> Verification:
    return verify(store, taken.digest, site.public_key)


def since(found: Verification) -> list[tuple[What, str, str]]:
    assert found.wrong == ()
    return [(one.what, one.case, one.words) for one in found.changed]


def kept(store: Store, snapshot: Snapshot, **values: object) -> str:
    """The digest of a forged snapshot, whose first case of consensus has these values."""
    first = next(case for case in snapshot.cases if case.settled == "consensus")
    forged = tuple(replace(case, **values) if case is first else case for case in snapshot.cases)  # type: ignore[arg-type]
    return keep_snapshot(replace(snapshot, cases=forged), store.blobs)


def test_a_snapshot_is_borne_out_and_nothing_has_changed(store: Store, site: Site, taken: Taken) -> None:
    steps: list[tuple[int, int]] = []
    found = verify(store, taken.digest, site.public_key, lambda done, total: steps.append((done, total)))
    assert (found.wrong, found.changed, found.truths) == ((), (), 5)
    assert found.blobs == 1 + 5 * 4  # the snapshot; an image, a label and two reads' labels a case
    assert steps == [(done, 5) for done in range(1, 6)]


def test_damaged_and_missing_blobs_are_wrong(store: Store, site: Site, taken: Taken, cases: list[Case]) -> None:
    assert isinstance(store.blobs, FolderBlobs)
    store.blobs.path(cases[0].image).write_bytes(b"other bytes")
    store.blobs.path(cases[1].image).unlink()
    found = verified(store, site, taken)
    assert set(found.wrong) == {
        f"case {cases[0].id}: its image is damaged",
        f"case {cases[1].id}: its image is missing",
    }
    assert found.truths == 3
    store.blobs.path(taken.digest).write_bytes(b"{}")
    damaged = verified(store, site, taken)
    assert damaged.wrong == ("the snapshot itself is damaged; restore it from a backup",)


def test_a_label_that_its_reads_do_not_come_to_is_wrong(store: Store, site: Site, taken: Taken) -> None:
    other = store.blobs.put(store.blobs.get(taken.snapshot.cases[0].label) + b" ")
    found = verify(store, kept(store, taken.snapshot, label=other), site.public_key)
    (words,) = found.wrong
    assert words.endswith("its label is not the consensus of its reads")
    assert found.truths == 4


def test_reads_that_are_not_there_or_in_dispute_are_wrong(
    store: Store, site: Site, taken: Taken, readers: tuple[Account, Account]
) -> None:
    (words,) = verify(store, kept(store, taken.snapshot, reads=(1, 2, 999)), site.public_key).wrong
    assert words.endswith("1 of the reads that settled it are not there")
    disputed = read_case(store, readers, 8, apart=3)
    reads = tuple(sorted(read.id for read in store.reads(disputed.id)))
    label = store.reads(disputed.id)[0].label
    forged = kept(store, taken.snapshot, case=disputed.id, reads=reads, label=label)
    (words,) = verify(store, forged, site.public_key).wrong
    assert words == f"case {disputed.id}: its reads do not agree, and it is said to be their consensus"


def test_an_adjudication_that_was_changed_or_is_another_is_wrong(
    store: Store, site: Site, taken: Taken, cases: list[Case]
) -> None:
    decided = cases[-1].id

    def forged(**values: object) -> tuple[str, ...]:
        changed = tuple(
            replace(one, **values) if one.case == decided else one  # type: ignore[arg-type]
            for one in taken.snapshot.cases
        )
        return verify(store, keep_snapshot(replace(taken.snapshot, cases=changed), store.blobs), site.public_key).wrong

    other = next(one.label for one in taken.snapshot.cases if one.settled == "consensus")
    assert forged(label=other) == (f"case {decided}: adjudication 1 decided another label, or between other reads",)
    assert forged(adjudication=7) == (f"case {decided}: adjudication 7 is not there",)
    change(store, "update adjudications set rationale = 'another'")
    assert verified(store, site, taken).wrong == (f"case {decided}: the signature of adjudication 1 does not hold",)


def test_a_protocol_version_that_is_gone_or_says_something_else_is_wrong(
    store: Store, site: Site, taken: Taken
) -> None:
    forged = keep_snapshot(replace(taken.snapshot, protocol_digest="0" * 64), store.blobs)
    (words,) = verify(store, forged, site.public_key).wrong
    assert words == "version 1 of protocol hippocampus says something else than when the snapshot was taken"
    forged = keep_snapshot(replace(taken.snapshot, protocol_version=9), store.blobs)
    (words,) = verify(store, forged, site.public_key).wrong
    assert words == "version 9 of protocol hippocampus is not there"


def test_a_reopened_case_and_one_decided_anew_are_told(
    store: Store, site: Site, taken: Taken, cases: list[Case], readers: tuple[Account, Account], judge: Account
) -> None:
    decided = cases[-1]
    reopen(store, decided.id, judge.id, "look again")
    ((what, case, words),) = since(verified(store, site, taken))
    assert (what, case) == (What.TRUTH, decided.id)
    assert words == "it was reopened, and is settled by nothing yet"
    settle(store, decided.id)
    decide(store, site, judge, decided, readers[0])
    assert since(verified(store, site, taken)) == [
        (What.TRUTH, decided.id, "adjudication 1 → adjudication 2, another label")
    ]


def test_a_read_saved_again_or_withdrawn_is_told(
    store: Store, site: Site, taken: Taken, cases: list[Case], readers: tuple[Account, Account]
) -> None:
    again, withdrawn = cases[0], cases[1]
    shifted = label_of()
    shifted.array_ZYX[1, 1, 1] = 0
    kept = store.save_read(case_id=again.id, reader=readers[1].id, label=Label.of(shifted))
    before = next(case.reads for case in taken.snapshot.cases if case.case == again.id)
    store.withdraw(case_id=withdrawn.id, reader=readers[0].id, actor="command line", reason="wrong side")
    told = {case: words for _, case, words in since(verified(store, site, taken))}
    first, second = before
    assert told == {
        again.id: f"consensus of reads {first}, {second} → consensus of reads {first}, {kept.id}, another label",
        withdrawn.id: "it has no truth now: a read was withdrawn, or more or other reads are asked",
    }


def test_what_was_settled_or_learned_since_and_a_newer_version_are_told(
    store: Store,
    site: Site,
    taken: Taken,
    cases: list[Case],
    readers: tuple[Account, Account],
    protocol: Protocol,
) -> None:
    read_case(store, readers, 20)
    volume = image_of(2)
    store.add_case(protocol=NAME, patient="P2", volume=volume, modality="MR", strata=Strata(sex="M"))
    store.add_protocol(replace(protocol, version=2, title="Hippocampus, as before"))
    told = since(verified(store, site, taken))
    assert told[0] == (What.PROTOCOL, "", "it is at version 2 now, and was at 1")
    assert (What.STRATA, cases[2].id, "sex unknown → M") in told
    assert told[1] == (What.ADDED, "", "1 case(s) were settled since")
    assert len(told) == 3


def test_a_case_that_is_not_there_is_told_and_its_reads_are_missed(store: Store, site: Site, taken: Taken) -> None:
    forged = kept(store, taken.snapshot, case="0" * 16)
    found = verify(store, forged, site.public_key)
    assert found.wrong == (f"case {'0' * 16}: 2 of the reads that settled it are not there",)
    assert (What.REMOVED, "0" * 16) in {(one.what, one.case) for one in found.changed}
    with store.engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(schema.cases)).scalar_one() == 5
