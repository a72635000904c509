"""Signed decisions: what is taken from where, by one adjudicator or two, and signatures that hold."""

import hashlib
import json
from dataclasses import asdict, replace
from datetime import UTC, datetime

import numpy as np
import pytest
import sqlalchemy as sa

from apps.settings import Site
from labeling_protocols import audit, schema
from labeling_protocols.adjudications import (
    AdjudicationError,
    adjudicate,
    adjudication_of,
    adjudication_of_row,
    adjudications,
    signature_holds,
)
from labeling_protocols.audit import Action
from labeling_protocols.consensus import form_consensus
from labeling_protocols.disputes import DisputeError, TakenError, claim, escalate, standing_over
from labeling_protocols.label import Label
from labeling_protocols.protocol import Protocol
from labeling_protocols.protocol_parts import ConsensusRule
from labeling_protocols.records import Account, Adjudication, Part
from labeling_protocols.settlement import settle, truth
from labeling_protocols.store import Store
from tests.conftest import label_of
from tests.store.examples import assert_whole, disputed_case, with_rule

Judges = tuple[Account, Account, Account]
Readers = tuple[Account, Account]


def decide(
    store: Store, site: Site, case_id: str, judge: Account, *parts: Part, rationale: str = "plain"
) -> Adjudication:
    return adjudicate(
        store,
        case_id=case_id,
        adjudicator=judge.id,
        parts=parts,
        rationale=rationale,
        signing_key=site.signing_key,
    )


def of(reader: Account, structure: str | None = None, lesion: int | None = None) -> Part:
    return Part(source=f"reader:{reader.id}", structure=structure, lesion=lesion)


def state(store: Store, case_id: str) -> str:
    found = standing_over(store, case_id)
    assert found is not None
    return found.state


def outlines(store: Store, case_id: str) -> np.ndarray:
    known = truth(store, case_id)
    assert known is not None
    return store.label(known.label).array_ZYX


def test_a_decision_takes_each_structure_from_another_reader(
    store: Store, site: Site, readers: Readers, judges: Judges
) -> None:
    case = disputed_case(store, readers)
    made = decide(store, site, case.id, judges[0], of(readers[0], "anterior"), of(readers[1], "posterior"))
    expected = np.where(label_of(3).array_ZYX == 2, 2, 0) + np.where(label_of(0).array_ZYX == 1, 1, 0)
    np.testing.assert_array_equal(outlines(store, case.id), expected)
    assert (made.choice, made.settles, made.round) == ("parts", True, 1)
    assert made.parts == (of(readers[0], "anterior"), of(readers[1], "posterior"))
    assert adjudications(store, case.id) == [made]
    assert adjudication_of(store, case.id) == made
    assert signature_holds(made, site.public_key)
    assert_whole(store, site)


def test_a_lesion_that_one_reader_invented_is_decided_apart(
    store: Store, site: Site, readers: Readers, judges: Judges
) -> None:
    """The second reader found one more piece of the anterior part, in the last slice; it is not taken."""
    array = label_of(0).array_ZYX.copy()
    array[5, 9, 5:8] = 1
    case = disputed_case(store, readers)
    more = label_of(0)
    store.save_read(
        case_id=case.id, reader=readers[1].id, label=Label.of(replace(more, array_ZYX=np.where(array == 2, 0, array)))
    )
    verdict = settle(store, case.id)
    assert verdict is not None
    numbers = [lesion.number for lesion in verdict.lesions if lesion.structure == "anterior"]
    assert numbers == [1, 2]
    whole, invented = of(readers[1]), Part(source="none", structure="anterior", lesion=2)
    decide(store, site, case.id, judges[0], whole, of(readers[0], "posterior"), invented)
    np.testing.assert_array_equal(outlines(store, case.id), label_of(0).array_ZYX)


@pytest.mark.parametrize("rule", ConsensusRule)
def test_every_consensus_can_be_taken(
    store: Store, site: Site, readers: Readers, judges: Judges, rule: ConsensusRule
) -> None:
    case = disputed_case(store, readers)
    labels = {reader.id: Label.of(label_of(3 * number)) for number, reader in enumerate(readers)}
    expected = form_consensus(store.protocol("hippocampus"), labels, rule).label
    made = decide(store, site, case.id, judges[0], Part(source=f"consensus:{rule}"))
    assert made.choice == rule
    np.testing.assert_array_equal(outlines(store, case.id), expected.array_ZYX)


def test_parts_that_make_no_label_are_refused_in_words(
    store: Store, site: Site, readers: Readers, judges: Judges
) -> None:
    case = disputed_case(store, readers)
    for parts in (
        (),
        (of(readers[0], "anterior"),),
        (of(readers[0], "nothing"),),
        (of(judges[0]),),
        (Part(source="consensus:guess"),),
        (of(readers[0]), of(readers[1])),
        (of(readers[0]), of(readers[1], "anterior", 7)),
        (Part(source=f"reader:{readers[0].id}", lesion=1),),
    ):
        with pytest.raises(AdjudicationError, match="Nothing was decided"):
            decide(store, site, case.id, judges[0], *parts)
    assert state(store, case.id) == "open"
    assert adjudications(store, case.id) == []


def test_a_rationale_is_as_long_as_the_protocol_asks(
    store: Store, site: Site, protocol: Protocol, readers: Readers, judges: Judges
) -> None:
    with_rule(store, protocol, rationale_min_characters=10)
    case = disputed_case(store, readers, protocol="ruled")
    with pytest.raises(AdjudicationError, match="expected a rationale of 10 characters; one of 9"):
        decide(store, site, case.id, judges[0], of(readers[0]), rationale=" 123456789 ")
    decide(store, site, case.id, judges[0], of(readers[0]), rationale="1234567890")


def test_what_somebody_else_has_is_not_decided(store: Store, site: Site, readers: Readers, judges: Judges) -> None:
    case = disputed_case(store, readers)
    claim(store, case.id, judges[0].id)
    with pytest.raises(TakenError, match="another adjudicator has this dispute since"):
        decide(store, site, case.id, judges[1], of(readers[0]))
    decide(store, site, case.id, judges[0], of(readers[0]))
    assert_whole(store, site)


def test_two_adjudicators_who_decide_the_same_settle_a_dispute(
    store: Store, site: Site, protocol: Protocol, readers: Readers, judges: Judges
) -> None:
    with_rule(store, protocol, adjudicators=2)
    case = disputed_case(store, readers, protocol="ruled")
    first = decide(store, site, case.id, judges[0], of(readers[0]))
    assert not first.settles
    assert state(store, case.id) == "open"
    assert truth(store, case.id) is None
    with pytest.raises(DisputeError, match="you decided already"):
        decide(store, site, case.id, judges[0], of(readers[0]))
    second = decide(store, site, case.id, judges[1], of(readers[0], "anterior"), of(readers[0], "posterior"))
    assert second.settles
    assert second.label == first.label
    assert state(store, case.id) == "settled"
    known = truth(store, case.id)
    assert known is not None
    assert known.adjudication == second.id
    assert_whole(store, site)


def test_adjudicators_who_differ_leave_it_to_a_third_who_agrees_with_one(
    store: Store, site: Site, protocol: Protocol, readers: Readers, judges: Judges
) -> None:
    with_rule(store, protocol, adjudicators=2)
    case = disputed_case(store, readers, protocol="ruled")
    decide(store, site, case.id, judges[0], of(readers[0]))
    decide(store, site, case.id, judges[1], of(readers[1]))
    assert state(store, case.id) == "open"
    assert decide(store, site, case.id, judges[2], of(readers[1])).settles
    assert_whole(store, site)


def test_adjudicators_who_differ_leave_it_to_whom_the_protocol_names(
    store: Store, site: Site, protocol: Protocol, readers: Readers, judges: Judges
) -> None:
    with_rule(store, protocol, adjudicators=2, escalate_after_days=9, escalate_to="chiefs")
    case = disputed_case(store, readers, protocol="ruled")
    decide(store, site, case.id, judges[0], of(readers[0]))
    decide(store, site, case.id, judges[1], of(readers[1]))
    assert state(store, case.id) == "escalated"
    alone = decide(store, site, case.id, judges[2], Part(source="consensus:intersection"))
    assert alone.settles
    assert state(store, case.id) == "settled"
    assert_whole(store, site)


def test_who_it_was_escalated_to_settles_alone(
    store: Store, site: Site, protocol: Protocol, readers: Readers, judges: Judges
) -> None:
    with_rule(store, protocol, adjudicators=2, escalate_after_days=9, escalate_to="chiefs")
    case = disputed_case(store, readers, protocol="ruled")
    escalate(store, case.id, judges[0].id, "a rare variant")
    assert decide(store, site, case.id, judges[2], of(readers[1])).settles


def test_a_first_decision_over_other_reads_is_none_any_more(
    store: Store, site: Site, protocol: Protocol, readers: Readers, judges: Judges
) -> None:
    with_rule(store, protocol, adjudicators=2)
    case = disputed_case(store, readers, protocol="ruled")
    decide(store, site, case.id, judges[0], of(readers[0]))
    store.save_read(case_id=case.id, reader=readers[1].id, label=Label.of(label_of(2)))
    second = decide(store, site, case.id, judges[1], of(readers[0]))
    assert (second.round, second.settles) == (2, False)
    assert decide(store, site, case.id, judges[0], of(readers[0])).settles
    assert_whole(store, site)


def test_what_a_decision_was_based_on_is_hashed_and_stands_in_the_chain(
    store: Store, site: Site, readers: Readers, judges: Judges
) -> None:
    case = disputed_case(store, readers)
    verdict, reads = settle(store, case.id), store.latest_reads(case.id)
    assert verdict is not None
    made = decide(store, site, case.id, judges[0], of(readers[0]))
    shown = {
        "verdict": asdict(verdict),
        "reads": [{"id": read.id, "revision": read.revision, "label": read.label} for read in reads],
        "protocol_version": 1,
        "consensus": {},
        "edits": {},
    }
    assert made.basis == hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()
    with store.engine.connect() as connection:
        [told] = [entry for entry in audit.entries(connection) if entry.action == Action.ADJUDICATED]
    says = json.loads(told.details)
    assert (says["basis"], says["label"], says["signature"]) == (made.basis, made.label, made.signature)
    assert says["parts"] == [asdict(of(readers[0]))]


def test_a_signature_covers_every_field(store: Store, site: Site, readers: Readers, judges: Judges) -> None:
    case = disputed_case(store, readers)
    made = decide(store, site, case.id, judges[0], of(readers[0]))
    for change in (
        {"round": 2},
        {"settles": False},
        {"parts": (of(readers[1]),)},
        {"basis": "0" * 64},
        {"basis": None},
        {"adjudicator": judges[1].id},
        {"reads": made.reads[:1]},
        {"choice": readers[1].id},
    ):
        assert not signature_holds(replace(made, **change), site.public_key), change


def test_the_signature_of_an_older_release_still_holds(
    store: Store, site: Site, readers: Readers, judges: Judges
) -> None:
    """It covers what there was then: no round, no parts, no basis."""
    case = disputed_case(store, readers)
    reads = store.latest_reads(case.id)
    old = {
        "case": case.id,
        "adjudicator": judges[0].id,
        "choice": reads[0].reader,
        "rationale": "the border is plain",
        "reads": ",".join(str(read.id) for read in sorted(reads, key=lambda read: read.id)),
        "label": reads[0].label,
        "created": datetime(2026, 3, 1, 9, 30, tzinfo=UTC),
    }
    text = json.dumps({**old, "created": "2026-03-01T09:30:00+00:00"}, sort_keys=True).encode()
    row = {
        **old,
        "signature": site.signing_key.sign(text).hex(),
        "round": 1,
        "settles": True,
        "parts": [],
        "basis": None,
    }
    with store.writing() as connection:
        connection.execute(sa.insert(schema.adjudications).values(row))
    [kept] = adjudications(store, case.id)
    assert kept == adjudication_of_row({**row, "id": kept.id})
    assert signature_holds(kept, site.public_key)
    assert not signature_holds(replace(kept, choice=reads[1].reader), site.public_key)
