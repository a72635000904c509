"""Where disputes stand and what moves them: every state with every act, claims that end, escalation, reopening."""

import contextlib
from dataclasses import replace
from datetime import timedelta
from multiprocessing.synchronize import Barrier

import pytest
import sqlalchemy as sa

from apps.settings import Site
from labeling_protocols import audit, schema
from labeling_protocols.adjudications import adjudicate, adjudication_of
from labeling_protocols.audit import Action
from labeling_protocols.dispute_states import LEASE, TRANSITIONS, Act, locked_case, move
from labeling_protocols.disputes import (
    DisputeError,
    Standing,
    TakenError,
    claim,
    claimable,
    claimables,
    escalate,
    escalated_because,
    move_on,
    release,
    reopen,
    standing_over,
)
from labeling_protocols.label import Label
from labeling_protocols.protocol import Protocol
from labeling_protocols.protocol_parts import AdjudicationRule
from labeling_protocols.records import Account, DisputeState, Outcome, Part, SeatState
from labeling_protocols.settlement import disputes, settle, truth
from labeling_protocols.store import Store, now
from labeling_protocols.verification import repair
from labeling_protocols.worklist import next_case, seats
from tests.conftest import label_of
from tests.store.examples import assert_whole, disputed_case, with_rule
from tests.store.processes import together
from tests.store.test_protocol_diff import without

Judges = tuple[Account, Account, Account]
Readers = tuple[Account, Account]


def standing(store: Store, case_id: str) -> Standing:
    found = standing_over(store, case_id)
    assert found is not None
    return found


def decide(store: Store, site: Site, case_id: str, adjudicator: Account, source: str = "consensus:union") -> None:
    adjudicate(
        store,
        case_id=case_id,
        adjudicator=adjudicator.id,
        parts=[Part(source=source)],
        rationale="the border is plain",
        signing_key=site.signing_key,
    )


def save(store: Store, case_id: str, reader: Account, shift: int) -> None:
    store.save_read(case_id=case_id, reader=reader.id, label=Label.of(label_of(shift)))


def actions(store: Store, case_id: str) -> list[str]:
    with store.engine.connect() as connection:
        told = [entry.action for entry in audit.entries(connection) if entry.subject == case_id]
    return [action for action in told if action.startswith("dispute") or action == Action.ADJUDICATED]


def test_every_act_on_every_state_is_in_the_table_or_refused_in_words(
    store: Store, readers: Readers, judges: Judges
) -> None:
    case = disputed_case(store, readers)
    table = schema.disputes

    def rows() -> list[object]:
        with store.engine.connect() as connection:
            count = connection.execute(sa.select(sa.func.count()).select_from(schema.audit)).scalar()
            return [count, *connection.execute(sa.select(table)).all()]

    for state in DisputeState:
        for act in Act:
            at = now()
            held = {"holder": judges[0].id, "held_since": at, "held_until": at + LEASE}
            values = held if state is DisputeState.CLAIMED else dict.fromkeys(held)
            with store.writing() as connection:
                connection.execute(sa.update(table).values(state=state, **values))
            before = rows()
            with store.writing() as connection:
                locked_case(connection, case.id)
            found = standing(store, case.id)
            if (state, act) in TRANSITIONS:
                with store.writing() as connection:
                    after = move(connection, found, act, actor=judges[0].id, at=at)
                assert after.state is TRANSITIONS[state, act], (state, act)
                assert (after.holder is not None) == (after.state is DisputeState.CLAIMED)
                assert isinstance(before[0], int)
                assert rows()[0] == before[0] + 1
                continue
            with pytest.raises(DisputeError, match=r"\w+ .*Nothing was changed\."), store.writing() as connection:
                move(connection, found, act, actor=judges[0].id, at=at)
            assert rows() == before


def test_one_adjudicator_gets_a_dispute_and_the_other_is_told_since_when(
    store: Store, readers: Readers, judges: Judges
) -> None:
    case = disputed_case(store, readers)
    at = now()
    mine = claim(store, case.id, judges[0].id, at=at)
    assert (mine.state, mine.holder, mine.held_since, mine.held_until) == ("claimed", judges[0].id, at, at + LEASE)
    with pytest.raises(TakenError, match=f"another adjudicator has this dispute since {at:%H:%M} UTC") as refused:
        claim(store, case.id, judges[1].id, at=at + LEASE / 2)
    assert refused.value.holder == judges[0].id
    assert standing(store, case.id) == mine
    for act in (lambda: release(store, case.id, judges[1].id), lambda: claim(store, case.id, readers[0].id)):
        with pytest.raises(DisputeError, match="Nothing was changed"):
            act()
    assert release(store, case.id, judges[0].id).state == "open"
    assert claim(store, case.id, judges[1].id).holder == judges[1].id


def test_a_claim_is_renewed_by_activity_and_lapses_without(store: Store, readers: Readers, judges: Judges) -> None:
    case = disputed_case(store, readers)
    at = now()
    claim(store, case.id, judges[0].id, at=at)
    assert claim(store, case.id, judges[0].id, at=at + timedelta(minutes=1)).held_until == at + LEASE
    renewed = claim(store, case.id, judges[0].id, at=at + LEASE / 2)
    assert (renewed.held_since, renewed.held_until) == (at, at + LEASE * 3 / 2)
    with pytest.raises(TakenError):
        claim(store, case.id, judges[1].id, at=at + LEASE)
    taken = claim(store, case.id, judges[1].id, at=at + 2 * LEASE)
    assert taken.holder == judges[1].id
    assert actions(store, case.id)[-2:] == [Action.DISPUTE_LAPSED, Action.DISPUTE_CLAIMED]
    assert move_on(store, store.protocol("hippocampus"), at=at + LEASE * 5 / 2).lapsed == 0
    assert move_on(store, store.protocol("hippocampus"), at=at + 3 * LEASE).lapsed == 1
    assert standing(store, case.id).state == "open"


def test_two_adjudicators_who_race_for_a_dispute_never_both_get_it(
    store: Store, site: Site, database_url: str, readers: Readers, judges: Judges
) -> None:
    cases = [disputed_case(store, readers, seed=seed) for seed in range(15)]

    def race(own: Store, number: int, barrier: Barrier) -> list[str]:
        won = []
        for case in cases:
            barrier.wait()
            with contextlib.suppress(TakenError):
                claim(own, case.id, judges[number].id)
                won.append(case.id)
        return won

    winners = together(store, database_url, 3, race)
    assert sorted(case for won in winners for case in won) == sorted(case.id for case in cases)
    for number, won in enumerate(winners):
        assert all(standing(store, case).holder == judges[number].id for case in won)
    assert_whole(store, site)


def test_only_the_protocols_group_may_take_a_dispute(
    store: Store, site: Site, protocol: Protocol, readers: Readers, judges: Judges
) -> None:
    with_rule(store, protocol, group="chiefs")
    case = disputed_case(store, readers, protocol="ruled")
    with pytest.raises(DisputeError, match="for adjudicators of the group chiefs"):
        claim(store, case.id, judges[0].id)
    with pytest.raises(DisputeError, match="for adjudicators of the group chiefs"):
        decide(store, site, case.id, judges[0])
    assert claim(store, case.id, judges[2].id).holder == judges[2].id


def test_an_escalated_dispute_waits_for_its_group(
    store: Store, site: Site, protocol: Protocol, readers: Readers, judges: Judges
) -> None:
    with_rule(store, protocol, escalate_after_days=3, escalate_to="chiefs")
    case = disputed_case(store, readers, protocol="ruled")
    with pytest.raises(DisputeError, match="needs a reason"):
        escalate(store, case.id, judges[0].id, "  ")
    claim(store, case.id, judges[0].id)
    with pytest.raises(TakenError):
        escalate(store, case.id, judges[1].id, "hard")
    found = escalate(store, case.id, judges[0].id, "a rare variant")
    assert (found.state, found.group, found.holder) == ("escalated", "chiefs", None)
    with pytest.raises(DisputeError, match="group chiefs"):
        claim(store, case.id, judges[0].id)
    claim(store, case.id, judges[2].id)
    assert release(store, case.id, judges[2].id).state == "escalated"
    claim(store, case.id, judges[2].id)
    with pytest.raises(DisputeError, match="escalated already"):
        escalate(store, case.id, judges[2].id, "again")
    decide(store, site, case.id, judges[2])
    assert standing(store, case.id).state == "settled"
    assert_whole(store, site)


def test_whose_a_dispute_is_and_how_many_decided_is_told_beforehand(
    store: Store, site: Site, protocol: Protocol, readers: Readers, judges: Judges
) -> None:
    with_rule(store, protocol, adjudicators=2, escalate_after_days=3, escalate_to="chiefs")
    first, second = (disputed_case(store, readers, protocol="ruled", seed=seed) for seed in (1, 2))
    decide(store, site, first.id, judges[0])
    escalate(store, second.id, judges[0].id, "a rare variant")
    of_chiefs = "this dispute is for adjudicators of the group chiefs"
    expected = {
        judges[0]: ("you decided already; another adjudicator decides next", of_chiefs),
        judges[1]: ("", of_chiefs),
        judges[2]: ("", ""),
    }
    found = disputes(store, "ruled")
    for judge, refusals in expected.items():
        told = claimables(store, found, judge.id)
        assert [(told[case.id].decided, told[case.id].refusal) for case in (first, second)] == [
            (1, refusals[0]),
            (0, refusals[1]),
        ]
        for case, refusal in zip((first, second), refusals, strict=True):
            assert claimable(store, standing(store, case.id), judge.id) == told[case.id]
            if refusal:
                with pytest.raises(DisputeError, match=f"{refusal}. Nothing was changed"):
                    claim(store, case.id, judge.id)
    assert [escalated_because(store, standing(store, case.id)) for case in (first, second)] == ["", "a rare variant"]
    decide(store, site, first.id, judges[1], "consensus:majority")
    assert escalated_because(store, standing(store, first.id)) == "two adjudicators decided differently"
    assert claimable(store, standing(store, first.id), judges[2].id).decided == 2
    assert claimables(store, [], judges[0].id) == {}


def test_without_a_group_to_escalate_to_nothing_is_escalated(store: Store, readers: Readers, judges: Judges) -> None:
    case = disputed_case(store, readers)
    with pytest.raises(DisputeError, match="names nobody to escalate to"):
        escalate(store, case.id, judges[0].id, "hard")
    assert standing(store, case.id).state == "open"


def test_what_is_open_for_too_long_is_escalated(
    store: Store, protocol: Protocol, readers: Readers, judges: Judges
) -> None:
    ruled = with_rule(store, protocol, escalate_after_days=3, escalate_to="chiefs")
    late, held = (disputed_case(store, readers, protocol="ruled", seed=seed) for seed in (1, 2))
    at = now() + timedelta(days=3, minutes=1)
    claim(store, held.id, judges[0].id, at=at - LEASE / 2)
    assert move_on(store, ruled, at=at - timedelta(days=1)).escalated == 0
    assert move_on(store, ruled, at=at).escalated == 1
    assert (standing(store, late.id).state, standing(store, held.id).state) == ("escalated", "claimed")
    moved = move_on(store, ruled, at=at + LEASE)
    assert (moved.lapsed, moved.escalated) == (1, 1)
    assert actions(store, held.id)[-2:] == [Action.DISPUTE_LAPSED, Action.DISPUTE_ESCALATED]
    assert move_on(store, ruled, at=at + 2 * LEASE).escalated == 0


def test_a_settled_dispute_is_reopened_with_a_reason_and_decided_anew(
    store: Store, site: Site, readers: Readers, judges: Judges
) -> None:
    case = disputed_case(store, readers)
    with pytest.raises(DisputeError, match="only what is settled"):
        reopen(store, case.id, judges[0].id, "look again")
    decide(store, site, case.id, judges[0], f"reader:{readers[0].id}")
    with pytest.raises(DisputeError, match="settled already"):
        claim(store, case.id, judges[1].id)
    for reason, who, words in (("", judges[1], "needs a reason"), ("look", readers[0], "read himself")):
        with pytest.raises(DisputeError, match=words):
            reopen(store, case.id, who.id, reason)
    found = reopen(store, case.id, judges[1].id, "the contrast phase was mistaken")
    assert (found.state, found.round) == ("reopened", 2)
    assert truth(store, case.id) is None
    assert adjudication_of(store, case.id) is None
    assert [dispute.state for dispute in disputes(store, "hippocampus")] == ["reopened"]
    decide(store, site, case.id, judges[0], f"reader:{readers[1].id}")
    known = truth(store, case.id)
    assert known is not None
    assert known.label == store.latest_reads(case.id)[readers[1].id > readers[0].id].label
    assert_whole(store, site)


def test_a_later_revision_leaves_a_settled_case_settled(
    store: Store, site: Site, readers: Readers, judges: Judges
) -> None:
    case = disputed_case(store, readers)
    decide(store, site, case.id, judges[0])
    settled = truth(store, case.id)
    save(store, case.id, readers[1], 0)
    settle(store, case.id)
    assert truth(store, case.id) == settled
    assert standing(store, case.id).state == "settled"
    assert_whole(store, site)


def test_withdrawing_a_read_that_a_decision_was_based_on_takes_it_back(
    store: Store, site: Site, readers: Readers, judges: Judges
) -> None:
    case = disputed_case(store, readers)
    decide(store, site, case.id, judges[0])
    store.withdraw(case_id=case.id, reader=readers[0].id, actor=readers[0].id, reason="wrong series")
    assert truth(store, case.id) is None
    assert standing(store, case.id).state == "withdrawn"
    assert store.progress("hippocampus").truths == 0
    with store.engine.connect() as connection:
        told = connection.execute(sa.select(schema.reopenings.c.round, schema.reopenings.c.reason)).all()
    assert told == [(1, "a read was withdrawn: wrong series")]
    save(store, case.id, readers[0], 1)
    settle(store, case.id)
    found = standing(store, case.id)
    assert (found.state, found.round) == ("open", 2)
    decide(store, site, case.id, judges[0])
    assert store.progress("hippocampus").truths == 1
    assert_whole(store, site)


def test_a_third_readers_withdrawal_leaves_the_other_two_to_be_judged(
    store: Store, site: Site, readers: Readers, judges: Judges
) -> None:
    case = disputed_case(store, readers)
    label = Label.of(label_of(1))
    store.save_read(case_id=case.id, reader=judges[1].id, label=label, adopted_by="command line")
    decide(store, site, case.id, judges[0])
    store.withdraw(case_id=case.id, reader=judges[1].id, actor="command line", reason="no reader")
    assert standing(store, case.id).state == "reopened"
    assert [dispute.state for dispute in disputes(store, "hippocampus")] == ["reopened"]
    assert_whole(store, site)


def test_a_dispute_is_withdrawn_when_its_reads_agree_and_made_again_when_they_do_not(
    store: Store, site: Site, readers: Readers, judges: Judges
) -> None:
    case = disputed_case(store, readers)
    claim(store, case.id, judges[0].id)
    save(store, case.id, readers[1], 2)
    settle(store, case.id)
    assert standing(store, case.id).holder == judges[0].id
    save(store, case.id, readers[1], 0)
    settle(store, case.id)
    found = standing(store, case.id)
    assert (found.state, found.holder) == ("withdrawn", None)
    save(store, case.id, readers[1], 3)
    settle(store, case.id)
    assert standing(store, case.id).state == "open"
    assert actions(store, case.id) == [
        Action.DISPUTE_MADE,
        Action.DISPUTE_CLAIMED,
        Action.DISPUTE_WITHDRAWN,
        Action.DISPUTE_MADE,
    ]
    assert_whole(store, site)


def test_a_disputed_case_goes_to_a_further_reader_first(
    store: Store, site: Site, protocol: Protocol, readers: Readers, judges: Judges
) -> None:
    with_rule(store, protocol, additional_readers=1)
    case = disputed_case(store, readers, protocol="ruled")
    assert standing_over(store, case.id) is None
    assert disputes(store, "ruled") == []
    assert [seat.state for seat in seats(store, case.id)] == [SeatState.READ, SeatState.READ, SeatState.FREE]
    assert_whole(store, site)
    assert next_case(store, "ruled", judges[1].id) == case
    save(store, case.id, judges[1], 3)
    assert [dispute.case for dispute in disputes(store, "ruled")] == [case.id]
    assert len(seats(store, case.id)) == 3
    with pytest.raises(DisputeError, match="read himself"):
        claim(store, case.id, judges[1].id)
    assert_whole(store, site)


def test_a_further_reader_is_not_asked_once_the_first_two_agree(
    store: Store, site: Site, protocol: Protocol, readers: Readers, judges: Judges
) -> None:
    with_rule(store, protocol, additional_readers=2)
    case = disputed_case(store, readers, protocol="ruled")
    save(store, case.id, readers[1], 0)
    settle(store, case.id)
    assert [case.id for case in store.cases("ruled", (Outcome.AGREED,))] == [case.id]
    assert next_case(store, "ruled", judges[1].id) is None
    assert_whole(store, site)


def test_a_new_question_ends_the_disputes_over_the_old_one(
    store: Store, site: Site, protocol: Protocol, readers: Readers, judges: Judges
) -> None:
    settled, waiting = (disputed_case(store, readers, seed=seed) for seed in (1, 2))
    decide(store, site, settled.id, judges[0])
    store.add_protocol(replace(without("posterior")(protocol), version=2))
    assert {standing(store, case.id).state for case in (settled, waiting)} == {DisputeState.WITHDRAWN}
    assert_whole(store, site)


def test_a_protocol_that_asks_more_of_adjudicators_judges_its_disputes_again(
    store: Store, site: Site, protocol: Protocol, readers: Readers, judges: Judges
) -> None:
    case = disputed_case(store, readers)
    store.add_protocol(replace(protocol, version=2, adjudication=AdjudicationRule(adjudicators=2)))
    decide(store, site, case.id, judges[0])
    assert standing(store, case.id).state == "open"
    assert_whole(store, site)


def test_a_dispute_that_was_changed_behind_the_stores_back_is_noticed_and_mended(
    store: Store, site: Site, readers: Readers, judges: Judges
) -> None:
    settled, waiting = (disputed_case(store, readers, seed=seed) for seed in (1, 2))
    decide(store, site, settled.id, judges[0])
    for words in (
        "delete from disputes",
        "update disputes set state = 'open'",
        "update disputes set state = 'settled'",
        "update disputes set state = 'withdrawn'",
    ):
        with store.writing() as connection:
            connection.execute(sa.text(words))
        with pytest.raises(AssertionError):
            assert_whole(store, site)
        repair(store)
        assert_whole(store, site)
    assert (standing(store, settled.id).state, standing(store, waiting.id).state) == ("settled", "open")
