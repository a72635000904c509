"""What an adjudicator draws for a decision: begun from a source, saved as revisions, taken by the decision."""

from dataclasses import replace

import numpy as np
import pytest

from apps.settings import Site
from labeling_protocols.adjudications import AdjudicationError, adjudicate
from labeling_protocols.disputes import DisputeError, TakenError, claim, release, reopen, standing_over
from labeling_protocols.edits import begin_edit, begun_from, edits, is_saved, newest_edit, open_edits, save_edit
from labeling_protocols.label import Label, LabelError
from labeling_protocols.records import Account, Adjudication, Part
from labeling_protocols.settlement import truth
from labeling_protocols.store import Store
from tests.conftest import label_of
from tests.store.examples import assert_whole, disputed_case

Judges = tuple[Account, Account, Account]
Readers = tuple[Account, Account]


def take(store: Store, site: Site, case_id: str, judge: Account, *parts: Part) -> Adjudication:
    return adjudicate(
        store, case_id=case_id, adjudicator=judge.id, parts=parts, rationale="drawn anew", signing_key=site.signing_key
    )


def test_an_edit_begins_from_a_reader_and_is_saved_as_revisions(
    store: Store, site: Site, readers: Readers, judges: Judges
) -> None:
    case, judge = disputed_case(store, readers), judges[0].id
    begun = begin_edit(store, case.id, judge, f"reader:{readers[1].id}")
    assert (begun.revision, begun.round, is_saved(begun)) == (0, 1, False)
    np.testing.assert_array_equal(store.label(begun.label).array_ZYX, label_of(3).array_ZYX)
    assert begin_edit(store, case.id, judge, f"reader:{readers[1].id}") == begun
    first = save_edit(store, case.id, judge, Label.of(label_of(1)), "3D Slicer")
    assert save_edit(store, case.id, judge, Label.of(label_of(1))) == first
    second = save_edit(store, case.id, judge, Label.of(label_of(2)))
    assert [edit.revision for edit in edits(store, case.id, judge)] == [0, 1, 2]
    assert newest_edit(store, case.id, judge) == second
    assert begun_from(edits(store, case.id, judge), second) == f"reader:{readers[1].id}"
    assert open_edits(store, "hippocampus", judge) == [second]
    assert_whole(store, site)


def test_an_edit_begins_anew_from_a_consensus_and_what_was_drawn_stays(
    store: Store, site: Site, readers: Readers, judges: Judges
) -> None:
    case, judge = disputed_case(store, readers), judges[0].id
    begin_edit(store, case.id, judge, "none")
    save_edit(store, case.id, judge, Label.of(label_of(1)))
    anew = begin_edit(store, case.id, judge, "consensus:intersection")
    assert (anew.revision, is_saved(anew)) == (2, False)
    saved = save_edit(store, case.id, judge, store.label(anew.label))
    assert (saved.revision, begun_from(edits(store, case.id, judge), saved)) == (3, "consensus:intersection")
    assert_whole(store, site)


def test_a_decision_takes_the_edit_for_what_it_names(
    store: Store, site: Site, readers: Readers, judges: Judges
) -> None:
    case, judge = disputed_case(store, readers), judges[0]
    begin_edit(store, case.id, judge.id, "consensus:majority")
    with pytest.raises(AdjudicationError, match="you saved no such edit"):
        take(store, site, case.id, judge, Part(source="edit:0"))
    save_edit(store, case.id, judge.id, Label.of(label_of(1)))
    parts = (Part(source="edit:1"), Part(source=f"reader:{readers[0].id}", structure="anterior"))
    take(store, site, case.id, judge, *parts)
    known = truth(store, case.id)
    assert known is not None
    array = store.label(known.label).array_ZYX
    np.testing.assert_array_equal(array == 1, label_of(0).array_ZYX == 1)
    np.testing.assert_array_equal(array == 2, (label_of(1).array_ZYX == 2) & (label_of(0).array_ZYX != 1))
    assert newest_edit(store, case.id, judge.id) is None
    assert open_edits(store, "hippocampus", judge.id) == []
    assert_whole(store, site)


def test_an_edit_claims_the_dispute_and_stays_its_makers(store: Store, readers: Readers, judges: Judges) -> None:
    case = disputed_case(store, readers)
    begin_edit(store, case.id, judges[0].id, "none")
    found = standing_over(store, case.id)
    assert found is not None
    assert found.holder == judges[0].id
    with pytest.raises(TakenError):
        begin_edit(store, case.id, judges[1].id, "none")
    release(store, case.id, judges[0].id)
    assert [edit.case for edit in open_edits(store, "hippocampus", judges[0].id)] == [case.id]
    claim(store, case.id, judges[1].id)
    assert open_edits(store, "hippocampus", judges[0].id) == []
    assert newest_edit(store, case.id, judges[1].id) is None
    with pytest.raises(TakenError):
        save_edit(store, case.id, judges[0].id, Label.of(label_of(1)))


def test_an_edit_that_cannot_be_kept_is_refused_in_words(
    store: Store, site: Site, readers: Readers, judges: Judges
) -> None:
    case = disputed_case(store, readers)
    with pytest.raises(DisputeError, match="you began no edit"):
        save_edit(store, case.id, judges[0].id, Label.of(label_of(1)))
    with pytest.raises(DisputeError, match="read himself"):
        begin_edit(store, case.id, readers[0].id, "none")
    with pytest.raises(DisputeError, match="Nothing was changed"):
        begin_edit(store, case.id, judges[0].id, "reader:nobody")
    begin_edit(store, case.id, judges[0].id, "none")
    foreign = label_of(1)
    with pytest.raises(LabelError, match="values the protocol does not"):
        save_edit(store, case.id, judges[0].id, Label.of(replace(foreign, array_ZYX=foreign.array_ZYX * 7)))
    take(store, site, case.id, judges[0], Part(source="consensus:union"))
    with pytest.raises(DisputeError, match="settled already"):
        save_edit(store, case.id, judges[0].id, Label.of(label_of(1)))


def test_a_reopened_dispute_begins_without_edits(store: Store, site: Site, readers: Readers, judges: Judges) -> None:
    case = disputed_case(store, readers)
    begin_edit(store, case.id, judges[0].id, "none")
    save_edit(store, case.id, judges[0].id, Label.of(label_of(1)))
    take(store, site, case.id, judges[0], Part(source="edit:1"))
    reopen(store, case.id, judges[1].id, "look again")
    assert newest_edit(store, case.id, judges[0].id) is None
    with pytest.raises(AdjudicationError, match="you saved no such edit"):
        take(store, site, case.id, judges[0], Part(source="edit:1"))
    assert begin_edit(store, case.id, judges[0].id, "none").round == 2
    assert_whole(store, site)
