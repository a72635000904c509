"""Reads of cases with a known truth are compared with it once, and never become truth or dispute."""

from dataclasses import replace

import numpy as np
import pytest
import sqlalchemy as sa

from labeling_protocols import calibration, schema, settlement
from labeling_protocols.label import Label, LabelError
from labeling_protocols.protocol import AgreementLimits, Protocol
from labeling_protocols.protocol_parts import Calibration
from labeling_protocols.records import Account, Case
from labeling_protocols.store import Store
from labeling_protocols.worklist import next_case
from tests.conftest import image_of, label_of

NAME = "calibrated"


@pytest.fixture
def asked(store: Store, protocol: Protocol) -> Protocol:
    """A protocol that mixes a calibration case in after every other case."""
    asked = replace(protocol, name=NAME, calibration=Calibration(every=1))
    store.add_protocol(asked)
    return asked


@pytest.fixture
def known(store: Store, asked: Protocol) -> Case:
    for seed in range(3):
        store.add_case(protocol=NAME, patient=f"P{seed}", volume=image_of(seed), modality="MR")
    case, _ = store.add_case(protocol=NAME, patient="P9", volume=image_of(9), modality="MR")
    return store.set_calibration(case.id, Label.of(label_of()))


def anterior_only() -> Label:
    label = label_of()
    return Label.of(replace(label, array_ZYX=np.where(label.array_ZYX == 1, np.uint8(1), np.uint8(0))))


def read_until(store: Store, reader: Account, case: Case, label: Label) -> None:
    """Read case after case until this one came, and read it so."""
    found = None
    while found != case:
        found = next_case(store, NAME, reader.id)
        assert found is not None
        store.save_read(case_id=found.id, reader=reader.id, label=label if found == case else Label.of(label_of()))


def kept_verdicts(store: Store) -> int:
    with store.engine.connect() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(schema.verdicts)).scalar_one())


def test_each_reader_is_compared_with_what_is_known(
    store: Store, asked: Protocol, known: Case, readers: tuple[Account, Account]
) -> None:
    """Boxes 4 voxels wide, moved by 1: Dice 2·3/(4+4) = 0.75."""
    ann, ben = readers
    read_until(store, ann, known, Label.of(label_of()))
    read_until(store, ben, known, Label.of(label_of(1)))
    found = {result.read.reader: result for result in calibration.results(store, NAME).results}
    assert [pair.dice for pair in found[ann.id].verdict.pairs] == [1.0, 1.0]
    assert [pair.dice for pair in found[ben.id].verdict.pairs] == [0.75, 0.75]
    assert {result.case for result in found.values()} == {known.id}
    assert [one.read.reader for one in calibration.results(store, NAME, ben.id).results] == [ben.id]


def test_a_structure_left_out_counts_as_nothing_reached_not_as_nothing_asked(
    store: Store, asked: Protocol, known: Case, readers: tuple[Account, Account]
) -> None:
    read_until(store, readers[0], known, anterior_only())
    found = calibration.results(store, NAME).results
    anterior, posterior = calibration.standings(asked, found)
    assert (anterior.score, anterior.missed) == (1.0, 0)
    assert (posterior.score, posterior.missed) == (0.0, 1)
    assert not found[0].verdict.agreed


def test_without_results_there_is_no_score(asked: Protocol) -> None:
    assert [standing.score for standing in calibration.standings(asked, ())] == [None, None]


def test_a_comparison_is_made_once_and_so_many_at_a_time(
    store: Store, asked: Protocol, known: Case, readers: tuple[Account, Account]
) -> None:
    for reader in readers:
        read_until(store, reader, known, Label.of(label_of()))
    assert calibration.results(store, NAME, at_most=0) == calibration.Results(results=(), waiting=2)
    first = calibration.results(store, NAME, at_most=1)
    assert (len(first.results), first.waiting) == (1, 1)
    both = calibration.results(store, NAME)
    assert (len(both.results), both.waiting) == (2, 0)
    assert kept_verdicts(store) == 2
    assert calibration.results(store, NAME) == both
    assert kept_verdicts(store) == 2


def test_the_newest_revision_is_compared_and_a_withdrawn_read_is_not(
    store: Store, asked: Protocol, known: Case, readers: tuple[Account, Account]
) -> None:
    ann = readers[0]
    read_until(store, ann, known, Label.of(label_of(3)))
    calibration.results(store, NAME)
    store.save_read(case_id=known.id, reader=ann.id, label=Label.of(label_of()))
    [result] = calibration.results(store, NAME).results
    assert (result.read.revision, result.verdict.agreed) == (2, True)
    store.withdraw(case_id=known.id, reader=ann.id, actor=ann.id, reason="wrong side")
    assert calibration.results(store, NAME).results == ()


def test_calibration_has_limits_of_its_own(
    store: Store, asked: Protocol, known: Case, readers: tuple[Account, Account]
) -> None:
    read_until(store, readers[0], known, Label.of(label_of(1)))
    assert calibration.results(store, NAME).results[0].verdict.agreed, "Dice 0.75 is what two readers must reach"
    strict = {name: AgreementLimits(dice_min=0.9, hd95_mm_max=4.0) for name in asked.values}
    store.add_protocol(replace(asked, version=2, calibration=Calibration(every=1, limits=strict)))
    [result] = calibration.results(store, NAME).results
    who = "(the known truth and the reader)"
    assert result.reasons == (f"anterior: Dice 0.75 < 0.90 {who}", f"posterior: Dice 0.75 < 0.90 {who}")


def test_a_calibration_case_is_no_dispute_and_no_truth(
    store: Store, asked: Protocol, known: Case, readers: tuple[Account, Account]
) -> None:
    for reader, shift in zip(readers, (0, 3), strict=True):
        read_until(store, reader, known, Label.of(label_of(shift)))
    calibration.results(store, NAME)
    assert settlement.settle(store, known.id) is None
    assert settlement.truth(store, known.id) is None
    assert known.id not in [dispute.case for dispute in settlement.disputes(store, NAME)]
    assert known.id not in [truth.case.id for truth in settlement.truths(store, NAME)]
    progress = store.progress(NAME)
    assert (progress.cases, progress.calibration_cases) == (3, 1)


def test_a_case_somebody_began_is_not_made_a_calibration_case(
    store: Store, asked: Protocol, known: Case, readers: tuple[Account, Account]
) -> None:
    begun = next_case(store, NAME, readers[0].id)
    assert begun is not None
    for case in (begun, known):
        with pytest.raises(LabelError, match="Nothing was changed"):
            store.set_calibration(case.id, Label.of(label_of()))
    assert store.case(begun.id).known_truth is None


def test_a_known_truth_must_fit_the_protocol(store: Store, asked: Protocol) -> None:
    case, _ = store.add_case(protocol=NAME, patient="P1", volume=image_of(1), modality="MR")
    foreign = label_of()
    foreign.array_ZYX[0, 0, 0] = 7
    with pytest.raises(LabelError, match="7"):
        store.set_calibration(case.id, Label.of(foreign))
    assert store.case(case.id).known_truth is None
