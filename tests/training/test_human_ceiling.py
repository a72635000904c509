"""What readers reach among each other, from the store's reads; by hand, and without a name."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from labeling_protocols.label import Label
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Account
from labeling_protocols.settlement import settle, truths
from labeling_protocols.store import Store
from labeling_protocols.strata import Strata
from labeling_protocols.worklist import reassign
from tests.conftest import image_of, label_of
from training.human_ceiling import ReadersAgreement, ceiling_of, human_ceiling, pairwise, readers_agreements


@dataclass(frozen=True, kw_only=True)
class Settled:
    case: str
    patient: str
    reads: tuple[int, ...]
    strata: Strata = Strata()  # noqa: RUF009  frozen


def read_case(store: Store, readers: tuple[Account, ...], labels: tuple[Label, ...], seed: int) -> str:
    case, _ = store.add_case(protocol="hippocampus", patient=f"P{seed}", volume=image_of(seed), modality="MR")
    for reader, label in zip(readers, labels, strict=True):
        reassign(store, case.id, from_reader=None, to_reader=reader.id, actor="command line")
        store.save_read(case_id=case.id, reader=reader.id, label=label)
    settle(store, case.id)
    return case.id


@pytest.fixture
def settled(store: Store, readers: tuple[Account, Account]) -> list[Settled]:
    """One case read the same by both, and one on which boxes 4 voxels wide lie one voxel apart."""
    same, apart = Label.of(label_of()), Label.of(label_of(1))
    read_case(store, readers, (same, same), 1)
    read_case(store, readers, (same, apart), 2)
    return [
        Settled(case=truth.case.id, patient=truth.case.patient, reads=truth.reads)
        for truth in truths(store, "hippocampus")
    ]


def test_the_ceiling_is_the_mean_of_what_readers_reach_with_each_other(
    store: Store, protocol: Protocol, settled: list[Settled]
) -> None:
    """Dice 1 on one case, 2·3/(4+4) = 0.75 on the other, in both structures; HD95 of one voxel of 0.8 mm."""
    assert len(settled) == 2
    figures = {figure.name: figure for figure in human_ceiling(store, protocol, settled)}
    for name in ("dice_mean", "dice/anterior", "dice/posterior"):
        assert (figures[name].value, figures[name].n) == (pytest.approx(0.875), 2)
    assert figures["hd95_mm/anterior"].value == pytest.approx((0.0 + 0.8) / 2)
    assert figures["surface_dice/anterior"].value == 1.0  # within the 2 mm of a protocol that says none
    assert figures["dice_mean"].interval is not None


def test_reads_that_the_truth_was_not_settled_from_do_not_count(
    store: Store, protocol: Protocol, settled: list[Settled]
) -> None:
    one_read = [replace(one, reads=one.reads[:1]) for one in settled]
    assert readers_agreements(store, protocol, one_read) == []
    assert human_ceiling(store, protocol, one_read) == ()
    mixed = human_ceiling(store, protocol, [settled[0], one_read[1]])
    assert {figure.n for figure in mixed} == {1}


def test_no_reader_is_named(
    store: Store, protocol: Protocol, settled: list[Settled], readers: tuple[Account, Account]
) -> None:
    said = repr(readers_agreements(store, protocol, settled)) + repr(human_ceiling(store, protocol, settled))
    assert all(reader.id not in said and reader.name not in said for reader in readers)


def test_three_readers_are_three_pairs(protocol: Protocol) -> None:
    """Boxes 4 wide at 0, 1 and 3: they share 3, 1 and 2 voxels of 4, so that Dice is 0.75, 0.25 and 0.5."""
    values = pairwise(protocol, [Label.of(label_of(shift)) for shift in (0, 1, 3)])
    assert values["dice/anterior"] == pytest.approx((0.75 + 0.25 + 0.5) / 3)
    assert values["hd95_mm/anterior"] == pytest.approx(0.8 * (1 + 3 + 2) / 3)


def test_what_one_reader_left_out_scores_nothing_and_has_no_distance(protocol: Protocol) -> None:
    """Two have the posterior alike, the third has none: Dice 1, 0 and 0, and one pair of three with a distance."""
    whole = label_of()
    without = replace(whole, array_ZYX=np.where(whole.array_ZYX == 1, np.uint8(1), np.uint8(0)))
    values = pairwise(protocol, [Label.of(whole), Label.of(whole), Label.of(without)])
    assert values["dice/posterior"] == pytest.approx(1 / 3)
    assert values["surface_dice/posterior"] == pytest.approx(1 / 3)
    assert values["hd95_mm/posterior"] == 0.0
    alone = pairwise(protocol, [Label.of(whole), Label.of(without)])
    assert (alone["dice/posterior"], alone["hd95_mm/posterior"]) == (0.0, None)


def test_a_distance_is_the_median_over_cases_and_counts_those_that_have_one() -> None:
    found = [
        ReadersAgreement(
            case=f"c{n}", patient=f"p{n}", strata=Strata(), readers=2, values={"dice_mean": 0.5, "hd95_mm/a": mm}
        )
        for n, mm in enumerate([1.0, 2.0, 9.0, None])
    ]
    figures = {figure.name: figure for figure in ceiling_of(found)}
    assert (figures["hd95_mm/a"].value, figures["hd95_mm/a"].n, figures["dice_mean"].n) == (2.0, 3, 4)
