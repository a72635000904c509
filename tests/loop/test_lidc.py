"""A scan of the LIDC-IDRI all the way: its radiologists' readings in, a dispute over one lesion, a signed truth out."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from numpy.typing import NDArray

from apps.identity import COOKIE
from apps.lidc_import import import_lidc
from labeling_protocols.adjudications import adjudicate
from labeling_protocols.label import Label
from labeling_protocols.lesions import Lesion, lesions_of
from labeling_protocols.protocol import SHIPPED, load_protocol
from labeling_protocols.records import Part, Role, Settled
from labeling_protocols.settlement import disputes, truths
from tests.annotation.served import Served, serving

pytestmark = pytest.mark.real_data
RATIONALE = "A density on two slices only; the others passed it over."


class Scan:
    """The imported scan under a protocol of its own, and an adjudicator of it."""

    def __init__(self, served: Served, folder: Path) -> None:
        self.served = served
        self.name = f"lung_nodule_{next(served.numbers)}"
        self.protocol = replace(load_protocol(SHIPPED / "lung_nodule.yaml"), name=self.name)
        served.store.add_protocol(self.protocol)
        report = import_lidc(served.store, served.site, [folder / "072.xml"], folder / "dicom", self.name)
        assert report.refused == ()
        (self.case,) = served.store.cases(self.name)
        self.adjudicator = served.account(Role.ADJUDICATOR)
        reads = served.store.latest_reads(self.case.id)
        self.labels = {read.reader: served.store.label(read.label) for read in reads}
        self.lesions = lesions_of(self.protocol, self.labels)
        (self.single,) = (lesion for lesion in self.lesions if len(lesion.found_by) == 1)

    def ask(self, path: str) -> Any:
        """What the adjudicator's program is told."""
        answer = self.served.session(self.adjudicator).get(f"{self.served.url}/review/api/{path}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def outline_ZYX(self, lesion: Lesion, reader: str) -> NDArray[np.bool_]:
        """What a reader outlined of a lesion, on the whole grid."""
        found_ZYX = np.zeros(self.case.geometry.shape_ZYX, bool)
        assert lesion.region is not None
        assert lesion.mask_ZYX is not None
        found_ZYX[lesion.region] = self.labels[reader].mask_ZYX(1)[lesion.region] & lesion.mask_ZYX
        return found_ZYX

    def truth(self) -> Label:
        (truth,) = truths(self.served.store, self.name)
        assert truth.settled is Settled.ADJUDICATION
        return self.served.store.label(truth.label)

    def require_truth(self, *, fourth: bool) -> None:
        """The truth has what three of four outlined, and of the fourth lesion all or nothing."""
        truth, (finder,) = self.truth(), self.single.found_by
        outlined_ZYX, fourth_ZYX = truth.mask_ZYX(1), self.outline_ZYX(self.single, finder)
        assert (outlined_ZYX & fourth_ZYX).sum() == (fourth_ZYX.sum() if fourth else 0)
        votes_ZYX = np.sum([label.mask_ZYX(1) for label in self.labels.values()], axis=0)
        assert outlined_ZYX[votes_ZYX >= 3].all()
        assert (votes_ZYX[outlined_ZYX & ~fourth_ZYX] >= 2).all()
        assert len(truth.boxes) == (4 if fourth else 3)
        assert disputes(self.served.store, self.name) == []
        assert len(self.served.store.latest_reads(self.case.id)) == 4  # the dissenting reads stay


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("lidc") / "site") as server:
        yield server


@pytest.fixture
def scan(served: Served, real_data: Path) -> Scan:
    return Scan(served, real_data / "lidc_0003")


@pytest.fixture(scope="module")
def undecided(served: Served, real_data: Path) -> Scan:
    """One that tests only look at."""
    return Scan(served, real_data / "lidc_0003")


def measured_by_somebody_else(real_data: Path) -> list[dict[str, float]]:
    """Pairwise Dice of each nodule, by the two readers' numbers."""
    theirs = json.loads((real_data / "lidc_0003" / "derived" / "agreement.json").read_text())
    return [each["pairwise_dice"] for each in theirs]


def test_the_dispute_names_the_lesion_that_one_of_four_found(undecided: Scan, real_data: Path) -> None:
    (dispute,) = disputes(undecided.served.store, undecided.name)
    names = {account.id: account.name for account in undecided.served.accounts.all()}
    said = [reason.said(names) for reason in dispute.verdict.reasons]
    assert f"nodule: lesion {undecided.single.number} was found by 1 of 4 readers (lidc_reader_4)" in said
    assert sorted(len(lesion.found_by) for lesion in dispute.verdict.lesions) == [1, 4, 4, 4]
    expected = sorted(min(dice.values(), default=0.0) for dice in measured_by_somebody_else(real_data))
    found = sorted(lesion.dice_min for lesion in dispute.verdict.lesions if lesion.dice_min is not None)
    assert found == pytest.approx(expected, abs=0.01)


def test_pairwise_dice_of_every_lesion_is_what_somebody_else_measured(undecided: Scan, real_data: Path) -> None:
    expected = sorted(dice for each in measured_by_somebody_else(real_data) for dice in each.values())
    measured = []
    for lesion in undecided.lesions:
        for a, b in combinations(lesion.found_by, 2):
            a_ZYX, b_ZYX = undecided.outline_ZYX(lesion, a), undecided.outline_ZYX(lesion, b)
            measured.append(2 * (a_ZYX & b_ZYX).sum() / (a_ZYX.sum() + b_ZYX.sum()))
    assert sorted(measured) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("fourth", [False, True], ids=["the fourth is none", "the fourth is one"])
def test_the_fourth_lesion_is_adjudicated_and_the_truth_has_the_chosen_ones(scan: Scan, fourth: bool) -> None:
    source = f"reader:{scan.single.found_by[0]}" if fourth else "none"
    adjudicate(
        scan.served.store,
        case_id=scan.case.id,
        adjudicator=scan.adjudicator.id,
        parts=[
            Part(source="consensus:majority"),
            Part(source=source, structure="nodule", lesion=scan.single.number),
        ],
        rationale=RATIONALE,
        signing_key=scan.served.site.signing_key,
    )
    scan.require_truth(fourth=fourth)


def test_the_radiologists_characteristics_are_their_answers(undecided: Scan) -> None:
    assert sorted(int(label.answers["malignancy"]) for label in undecided.labels.values()) == [3, 4, 5, 5]
    assert {label.answers["calcification"] for label in undecided.labels.values()} == {6}


def test_administrators_see_that_nobody_signs_in_as_a_reader_of_the_lidc(undecided: Scan) -> None:
    served = undecided.served
    cookie = {COOKIE: served.accounts.token(served.account(Role.ADMINISTRATOR))}
    page = requests.get(f"{served.url}/accounts", cookies=cookie, timeout=30).text
    card = page.split("lidc_reader_1</h2>")[1].split("</li>")[0]
    assert "no sign-in" in card
    assert "Reset password" not in card


# Over HTTP, as an adjudicator's program does it


def test_an_adjudicator_decides_the_fourth_lesion_over_http(scan: Scan) -> None:
    (listed,) = scan.ask(f"disputes?protocol={scan.name}")["disputes"]
    said = f"lesion {scan.single.number} was found by 1 of 4 readers (reader "
    assert any(said in reason for reason in listed["reasons"])
    told = {lesion["number"]: lesion for lesion in scan.ask(f"disputes/{scan.case.id}")["lesions"]}
    (letter,) = told[scan.single.number]["found_by"]
    answer = scan.served.session(scan.adjudicator).post(
        f"{scan.served.url}/review/api/disputes/{scan.case.id}",
        json={
            "parts": [
                {"take": "majority"},
                {"structure": "nodule", "lesion": scan.single.number, "take": letter},
            ],
            "rationale": RATIONALE,
            "password": f"{scan.adjudicator.name}-password",
        },
    )
    assert answer.status_code == 200, answer.text
    scan.require_truth(fourth=True)


def test_no_reader_of_the_lidc_is_named_to_the_adjudicator(undecided: Scan) -> None:
    session = undecided.served.session(undecided.adjudicator)
    for path in (f"disputes?protocol={undecided.name}", f"disputes/{undecided.case.id}"):
        said = session.get(f"{undecided.served.url}/review/api/{path}").text
        assert "lidc" not in said.lower()
        assert not any(reader in said for reader in undecided.labels)
