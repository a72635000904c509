"""Settled reads are compared with the truth once; rows and a reader's feedback say what was settled, and how."""

from dataclasses import replace

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from labeling_protocols import reading_rows, schema
from labeling_protocols.adjudications import adjudicate
from labeling_protocols.blinding import lifted, own_lifted
from labeling_protocols.comparisons import TRUTH, CatchingUp, comparisons, standing
from labeling_protocols.disputes import reopen
from labeling_protocols.feedback import feedback
from labeling_protocols.label import Label
from labeling_protocols.protocol import Protocol
from labeling_protocols.protocol_parts import Blinding, BlindingLifts
from labeling_protocols.reading_rows import Taken
from labeling_protocols.records import Account, Case, Outcome, Part, Provenance, Role, Settled
from labeling_protocols.settlement import judge, settle
from labeling_protocols.store import Store, now
from labeling_protocols.worklist import reassign
from tests.conftest import image_of, label_of

NAME = "lifting"
WHY = "The reader follows the boundary."


@pytest.fixture
def asked(store: Store, protocol: Protocol) -> Protocol:
    """Two readers a case, unblinded when it is settled."""
    asked = replace(protocol, name=NAME, blinding=Blinding(lifts=BlindingLifts.WHEN_SETTLED))
    store.add_protocol(asked)
    return asked


def account(store: Store, name: str, role: Role = Role.READER) -> Account:
    """Nobody signs in here, and hashing passwords takes longer than all the rest."""
    row = {"id": name, "name": name, "roles": [role], "groups": [], "disabled": False, "created": now()}
    with store.writing() as connection:
        connection.execute(sa.insert(schema.accounts).values(row))
    return Account(id=name, name=name, roles=frozenset({role}), disabled=False)


@pytest.fixture
def readers(store: Store) -> tuple[Account, Account]:
    return account(store, "ann"), account(store, "ben")


@pytest.fixture
def judge_account(store: Store) -> Account:
    return account(store, "judge", Role.ADJUDICATOR)


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def read(store: Store, reader: Account, case: Case, shift: int = 0, seconds: float = 60.0) -> None:
    store.save_read(
        case_id=case.id, reader=reader.id, label=Label.of(label_of(shift)), provenance=Provenance(seconds=seconds)
    )


def case_read_by(store: Store, readers: tuple[Account, Account], *shifts: int, seed: int = 1) -> Case:
    """A case that so many of the readers have read, each with the outlines moved by so many voxels along x."""
    case, _ = store.add_case(protocol=NAME, patient=f"P{seed}", volume=image_of(seed), modality="MR")
    for reader, shift in zip(readers, shifts, strict=False):
        reassign(store, case.id, from_reader=None, to_reader=reader.id, actor="tests")
        read(store, reader, case, shift)
    settle(store, case.id)
    return case


def decide(store: Store, case: Case, judge: Account, key: Ed25519PrivateKey, *sources: str) -> None:
    structures = (None,) if len(sources) == 1 else ("anterior", "posterior")
    parts = [Part(source=source, structure=structure) for source, structure in zip(sources, structures, strict=True)]
    adjudicate(store, case_id=case.id, adjudicator=judge.id, parts=parts, rationale=WHY, signing_key=key)


def kept(store: Store) -> int:
    with store.engine.connect() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(schema.verdicts)).scalar_one())


def test_reads_that_agree_are_compared_with_their_consensus(
    store: Store, asked: Protocol, readers: tuple[Account, Account]
) -> None:
    case = case_read_by(store, readers, 0, 0)
    found = comparisons(store, NAME, at_most=10).found
    assert [(one.of.case, one.of.reader, one.of.settled) for one in found] == [
        (case.id, reader.id, Settled.CONSENSUS) for reader in readers
    ]
    assert {(pair.reader_b, pair.dice) for one in found for pair in one.pairs} == {(TRUTH, 1.0)}
    assert all(pair.reader_a == one.of.reader for one in found for pair in one.pairs)
    assert found[0].of.at == max(read.created for read in store.reads(case.id))


def test_reads_in_dispute_are_compared_with_what_the_adjudicator_took_and_not_before(
    store: Store, asked: Protocol, readers: tuple[Account, Account], judge_account: Account, key: Ed25519PrivateKey
) -> None:
    """Boxes 4 voxels wide, moved by 3: Dice 2·1/(4+4) = 0.25."""
    case = case_read_by(store, readers, 0, 3)
    assert comparisons(store, NAME, at_most=10).found == ()
    decide(store, case, judge_account, key, f"reader:{readers[1].id}")
    found = {one.of.reader: one for one in comparisons(store, NAME, at_most=10).found}
    assert {pair.dice for pair in found[readers[1].id].pairs} == {1.0}
    assert {pair.dice for pair in found[readers[0].id].pairs} == {0.25}
    assert found[readers[0].id].of.settled is Settled.ADJUDICATION
    ours = comparisons(store, NAME, reader=readers[0].id, cases=[case.id]).found
    assert [one.of.reader for one in ours] == [readers[0].id]


def test_a_comparison_is_worked_out_once_and_so_many_at_a_time(
    store: Store, asked: Protocol, readers: tuple[Account, Account]
) -> None:
    for seed in range(2):
        case_read_by(store, readers, 0, 0, seed=seed)
    before = kept(store)
    first = comparisons(store, NAME, at_most=3)
    assert (len(first.found), first.waiting, kept(store)) == (3, 1, before + 3)
    assert (len(comparisons(store, NAME).found), comparisons(store, NAME).waiting) == (3, 1)
    assert comparisons(store, NAME, at_most=3).waiting == 0
    assert kept(store) == before + 4


def test_the_worker_catches_up_and_then_rests_until_something_changes(
    store: Store, asked: Protocol, readers: tuple[Account, Account]
) -> None:
    catching_up = CatchingUp(store)
    case_read_by(store, readers, 0, 0)
    assert [catching_up.step(NAME, 1) for _ in range(2)] == [1, 0]
    before = kept(store)
    assert catching_up.step(NAME, 1) == 0
    assert kept(store) == before
    case_read_by(store, readers, 0, 0, seed=2)
    assert catching_up.step(NAME, 1) == 1


def test_a_new_read_or_a_new_decision_is_compared_anew(
    store: Store, asked: Protocol, readers: tuple[Account, Account], judge_account: Account, key: Ed25519PrivateKey
) -> None:
    case = case_read_by(store, readers, 0, 3)
    decide(store, case, judge_account, key, f"reader:{readers[0].id}")
    comparisons(store, NAME, at_most=10)
    stood = standing(store, NAME)
    reopen(store, case.id, judge_account.id, "A look at the next scan")
    assert standing(store, NAME) != stood
    assert comparisons(store, NAME, at_most=10).found == ()
    decide(store, case, judge_account, key, f"reader:{readers[1].id}")
    found = {one.of.reader: one.pairs[0].dice for one in comparisons(store, NAME, at_most=10).found}
    assert found == {readers[0].id: 0.25, readers[1].id: 1.0}


def test_a_withdrawn_read_is_compared_no_more(store: Store, asked: Protocol, readers: tuple[Account, Account]) -> None:
    case = case_read_by(store, readers, 0, 0)
    assert len(comparisons(store, NAME, at_most=10).found) == 2
    store.withdraw(case_id=case.id, reader=readers[0].id, actor=readers[0].id, reason="wrong side")
    assert comparisons(store, NAME, at_most=10).found == ()
    assert own_lifted(store, NAME, readers[0].id, limit=10) == []
    assert own_lifted(store, NAME, readers[1].id, limit=10) == []


def test_blinding_lifts_for_the_readers_of_a_settled_case_alone(
    store: Store,
    asked: Protocol,
    readers: tuple[Account, Account],
    judge_account: Account,
    key: Ed25519PrivateKey,
) -> None:
    ann, ben = readers
    other = account(store, "cat")
    case, alone = case_read_by(store, readers, 0, 3), case_read_by(store, readers, 0, seed=2)
    for reader in (ann, ben, other):
        assert not lifted(store, reader.id, case.id)
        assert feedback(store, reader.id, case.id) is None
        assert feedback(store, reader.id, "nothing") is None
    decide(store, case, judge_account, key, f"reader:{ben.id}")
    assert [lifted(store, reader.id, case.id) for reader in (ann, ben, other)] == [True, True, False]
    assert [one.case for one in own_lifted(store, NAME, ann.id, limit=10)] == [case.id]
    assert feedback(store, other.id, case.id) is None
    assert feedback(store, ann.id, alone.id) is None


def test_blinding_that_never_lifts_shows_nothing_of_a_settled_case(
    store: Store, asked: Protocol, readers: tuple[Account, Account]
) -> None:
    case = case_read_by(store, readers, 0, 0)
    assert lifted(store, readers[0].id, case.id)
    store.add_protocol(replace(asked, version=asked.version + 1, blinding=Blinding(lifts=BlindingLifts.NEVER)))
    judge(store, NAME)
    assert not lifted(store, readers[0].id, case.id)
    assert own_lifted(store, NAME, readers[0].id, limit=10) == []
    assert feedback(store, readers[0].id, case.id) is None


def test_feedback_has_the_rationale_and_the_readers_own_numbers(
    store: Store, asked: Protocol, readers: tuple[Account, Account], judge_account: Account, key: Ed25519PrivateKey
) -> None:
    """4·4·4 voxels in each box, whatever its place: volumes do not differ where outlines do."""
    ann, ben = readers
    case = case_read_by(store, readers, 0, 3)
    decide(store, case, judge_account, key, f"reader:{ben.id}")
    found = feedback(store, ann.id, case.id)
    assert found is not None
    assert (found.rationales, found.decided_over) == ((WHY,), tuple(sorted((ann.id, ben.id))))
    assert [(pair.dice, pair.volume_difference_ml) for pair in found.pairs] == [(0.25, 0.0), (0.25, 0.0)]
    assert (found.read.reader, found.settled, found.saved_since) == (ann.id, Settled.ADJUDICATION, False)
    read(store, ann, case, 2)
    again = feedback(store, ann.id, case.id)
    assert again is not None
    assert (again.saved_since, again.pairs[0].dice) == (True, 0.75)


def test_own_lifted_cases_come_in_pages(store: Store, asked: Protocol, readers: tuple[Account, Account]) -> None:
    cases = [case_read_by(store, readers, 0, 0, seed=seed).id for seed in range(3)]
    first = own_lifted(store, NAME, readers[0].id, limit=2)
    rest = own_lifted(store, NAME, readers[0].id, limit=2, before=first[-1].read)
    assert [one.case for one in (*first, *rest)] == cases[::-1]


def test_rows_count_what_happened(
    store: Store, asked: Protocol, readers: tuple[Account, Account], judge_account: Account, key: Ed25519PrivateKey
) -> None:
    ann, ben = readers
    one, other = case_read_by(store, readers, 0, 3, seed=1), case_read_by(store, readers, 0, 3, seed=2)
    case_read_by(store, readers, 0, 0, seed=3)
    case_read_by(store, readers, 0, seed=4)
    decide(store, one, judge_account, key, "consensus:union")
    decide(store, other, judge_account, key, f"reader:{ann.id}", f"reader:{ben.id}")
    decided = reading_rows.decisions(store, NAME)
    assert [(row.case, row.taken, row.readers) for row in decided] == [
        (one.id, Taken.CONSENSUS, ()),
        (other.id, Taken.SEVERAL, tuple(sorted((ann.id, ben.id)))),
    ]
    assert len(reading_rows.raised(store, NAME)) == 2
    assert len(reading_rows.first_reads(store, NAME)) == 7
    (source,) = reading_rows.by_source(store, NAME)
    assert (source.modality, source.dicom, source.cases, source.reads, source.truths) == ("MR", False, 4, 7, 3)
    assert source.outcomes == {Outcome.AGREED: 1, Outcome.SETTLED: 2, Outcome.OPEN: 1}
    counts = {row.reader: row.read for row in reading_rows.by_reader(store, NAME)}
    assert counts == {ann.id: 4, ben.id: 3}
    (group,) = reading_rows.by_group(store, NAME)
    assert (group.group, group.seats, group.read) == ("", 8, 7)
    common = reading_rows.common_volumes(store, NAME, at_most=10, answers_of=10)
    assert {case.case: set(case.volumes_ml) for case in common.cases}[one.id] == {ann.id, ben.id}
    assert len(common.cases) == 3
    read(store, ann, one, 1, seconds=30.0)
    spent = {(row.reader, row.case): row.seconds for row in reading_rows.times(store, NAME)}
    assert (spent[ann.id, one.id], spent[ben.id, one.id]) == (90.0, 60.0)
