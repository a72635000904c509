"""Reads that agree become consensus; others become disputes, and a signed adjudication settles them."""

from dataclasses import replace

import numpy as np
import pytest
import sqlalchemy as sa

from apps.accounts import Accounts
from apps.settings import Site
from labeling_protocols.blobs import FolderBlobs
from labeling_protocols.geometry import Volume
from labeling_protocols.label import Label
from labeling_protocols.records import Account, Case, DisputeState, Outcome, Part, Role, Settled
from labeling_protocols.settlement import (
    AdjudicationError,
    adjudicate,
    counts,
    disputes,
    settle,
    signature_holds,
    truth,
    truths,
)
from labeling_protocols.settlement import judge as judge_all
from labeling_protocols.store import Store
from labeling_protocols.worklist import next_case
from tests.conftest import OBLIQUE, image_of, label_of


@pytest.fixture
def judge(accounts: Accounts) -> Account:
    return accounts.add("judge", "judge-password", frozenset({Role.ADJUDICATOR}))


def read_case(store: Store, readers: tuple[Account, Account], second: Volume, seed: int = 1) -> Case:
    case, _ = store.add_case(protocol="hippocampus", patient=f"P{seed}", volume=image_of(seed), modality="MR")
    for reader, label in zip(readers, (label_of(), second), strict=True):
        assert next_case(store, "hippocampus", reader.id) == case
        store.save_read(case_id=case.id, reader=reader.id, label=Label.of(label))
    return case


def test_reads_that_agree_become_consensus(store: Store, readers: tuple[Account, Account]) -> None:
    case = read_case(store, readers, label_of())
    verdict = settle(store, case.id)
    assert verdict is not None
    assert verdict.agreed
    known = truth(store, case.id)
    assert known is not None
    assert known.settled is Settled.CONSENSUS
    assert np.array_equal(store.label(known.label).array_ZYX, label_of().array_ZYX)
    assert disputes(store, "hippocampus") == []


def test_a_case_with_a_free_seat_has_no_verdict_yet(store: Store, readers: tuple[Account, Account]) -> None:
    case, _ = store.add_case(protocol="hippocampus", patient="P", volume=image_of(1), modality="MR")
    next_case(store, "hippocampus", readers[0].id)
    store.save_read(case_id=case.id, reader=readers[0].id, label=Label.of(label_of()))
    assert settle(store, case.id) is None
    assert truth(store, case.id) is None


def test_a_verdict_that_a_crash_swallowed_is_made_when_it_is_needed(
    store: Store, readers: tuple[Account, Account]
) -> None:
    read_case(store, readers, label_of(shift=3))
    assert len(disputes(store, "hippocampus")) == 1


def test_the_adjudicators_choice_is_the_truth_and_the_dissent_stays(
    store: Store, site: Site, readers: tuple[Account, Account], judge: Account
) -> None:
    case = read_case(store, readers, label_of(shift=3))
    before = store.reads(case.id)
    decision = adjudicate(
        store,
        case_id=case.id,
        adjudicator=judge.id,
        parts=[Part(source=f"reader:{readers[1].id}")],
        rationale="ann missed the lateral rim",
        signing_key=site.signing_key,
    )
    known = truth(store, case.id)
    assert known is not None
    assert (known.settled, known.adjudication) == (Settled.ADJUDICATION, decision.id)
    assert np.array_equal(store.label(known.label).array_ZYX, label_of(shift=3).array_ZYX)
    assert store.reads(case.id) == before
    assert disputes(store, "hippocampus") == []
    assert truths(store, "hippocampus") == [known]


def test_a_changed_decision_no_longer_carries_its_signature(
    store: Store, site: Site, readers: tuple[Account, Account], judge: Account
) -> None:
    case = read_case(store, readers, label_of(shift=3))
    decision = adjudicate(
        store,
        case_id=case.id,
        adjudicator=judge.id,
        parts=[Part(source="consensus:majority")],
        rationale="both are half right",
        signing_key=site.signing_key,
    )
    assert signature_holds(decision, site.public_key)
    assert not signature_holds(replace(decision, rationale="something else"), site.public_key)
    assert not signature_holds(replace(decision, label="0" * 64), site.public_key)


def test_decisions_that_cannot_stand_are_refused(
    store: Store, site: Site, readers: tuple[Account, Account], judge: Account
) -> None:
    case = read_case(store, readers, label_of(shift=3))
    agreed = read_case(store, readers, label_of(), seed=2)

    def decide(*, source: str = "consensus:majority", **changes: str) -> None:
        call = {"case_id": case.id, "adjudicator": judge.id, "rationale": "r", **changes}
        adjudicate(store, signing_key=site.signing_key, parts=[Part(source=source)], **call)

    for changes, words in (
        ({"rationale": "  "}, "rationale"),
        ({"source": "reader:nobody"}, "Nothing was decided"),
        ({"source": "edit:1"}, "you saved no such edit"),
        ({"adjudicator": readers[0].id}, "read himself"),
        ({"case_id": agreed.id}, "not in dispute"),
    ):
        with pytest.raises(AdjudicationError, match=words):
            decide(**changes)
    decide()
    with pytest.raises(AdjudicationError, match="settled already"):
        decide()


def test_a_new_revision_brings_a_dispute_to_consensus(store: Store, readers: tuple[Account, Account]) -> None:
    case = read_case(store, readers, label_of(shift=3))
    assert len(disputes(store, "hippocampus")) == 1
    store.save_read(case_id=case.id, reader=readers[1].id, label=Label.of(label_of()))
    assert disputes(store, "hippocampus") == []
    assert store.progress("hippocampus").truths == len(truths(store, "hippocampus")) == 1


def test_a_damaged_label_stops_its_own_case_alone(
    store: Store, readers: tuple[Account, Account], caplog: pytest.LogCaptureFixture
) -> None:
    damaged = read_case(store, readers, label_of(shift=3), seed=1)
    whole = [read_case(store, readers, label_of(shift=1), seed=seed) for seed in (2, 3)]
    assert isinstance(store.blobs, FolderBlobs)
    store.blobs.path(store.reads(damaged.id)[1].label).write_bytes(b"something else")
    assert judge_all(store, "hippocampus") == 2
    judged = store.cases("hippocampus", (Outcome.AGREED, Outcome.DISPUTED))
    assert {case.id for case in judged} == {case.id for case in whole}
    assert [record.getMessage().split()[1] for record in caplog.records] == [damaged.id]


def test_a_list_of_many_disputes_asks_as_often_as_one_of_few(store: Store, readers: tuple[Account, Account]) -> None:
    asked: list[str] = []
    read_case(store, readers, label_of(shift=3), seed=1)
    disputes(store, "hippocampus")
    sa.event.listen(store.engine, "before_cursor_execute", lambda *told: asked.append(told[2]))
    disputes(store, "hippocampus")
    few = len(asked)
    for seed in (2, 3, 4, 5):
        read_case(store, readers, label_of(shift=3), seed=seed)
    assert judge_all(store, "hippocampus") == 4
    asked.clear()
    assert len(disputes(store, "hippocampus")) == 5
    assert len(asked) == few <= 7


def test_disputes_are_listed_by_state(
    store: Store, site: Site, readers: tuple[Account, Account], judge: Account
) -> None:
    settled, waiting = (read_case(store, readers, label_of(shift=3), seed=seed) for seed in (1, 2))
    adjudicate(
        store,
        case_id=settled.id,
        adjudicator=judge.id,
        parts=[Part(source="consensus:union")],
        rationale="both are half right",
        signing_key=site.signing_key,
    )
    assert [dispute.case for dispute in disputes(store, "hippocampus")] == [waiting.id]
    assert [dispute.case for dispute in disputes(store, "hippocampus", [DisputeState.SETTLED])] == [settled.id]
    known = counts(store, ["hippocampus"])
    assert {state: count for state, count in known.items() if count} == {"open": 1, "settled": 1}


def test_the_worst_dispute_comes_first(store: Store, readers: tuple[Account, Account]) -> None:
    mild = read_case(store, readers, label_of(shift=2), seed=1)
    array = label_of().array_ZYX.copy()
    array[array == 2] = 0
    severe = read_case(store, readers, Volume(array_ZYX=array, geometry=OBLIQUE), seed=2)
    assert [dispute.case for dispute in disputes(store, "hippocampus")] == [severe.id, mild.id]
    progress = store.progress("hippocampus")
    assert (progress.cases, progress.reads, progress.disputes, progress.truths) == (2, 4, 2, 0)
