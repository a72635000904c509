"""The pipeline's side of a classification: scores become a report, readers are held beside it, cases are shown."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from apps.accounts import Accounts
from apps.settings import make_site
from labeling_protocols.label import Label
from labeling_protocols.protocol import Protocol
from labeling_protocols.protocol_parts import AnswerAgreement, BooleanQuestion, IntegerQuestion, TextQuestion
from labeling_protocols.records import Role, Settled
from labeling_protocols.store import Store
from labeling_protocols.strata import Strata
from labeling_protocols.worklist import next_case
from tests.training.drawn import draw
from tests.training.drawn_pairs import classification_plan, counted_balls
from training.classification import ClassificationLearner
from training.classification_kit import ClassificationKit
from training.drawing import png
from training.plan import ModelTask
from training.snapshot import SnapshotCase
from training.task_kit import TestCase
from training.tasks import kit_of, learner_of

PAIR = BooleanQuestion(kind="boolean", name="pair", title="Two balls?", agreement=AnswerAgreement.ANY)
BALLS = IntegerQuestion(kind="integer", name="balls", title="How many balls?", min=1, max=2)
REMARK = TextQuestion(kind="text", name="remark", title="Remarks")
CPU = torch.device("cpu")


def cases_of(seeds: range) -> list[TestCase]:
    return [
        TestCase(case=f"c{seed}", patient=f"P{seed}", strata=Strata(), image=image, label=label)
        for seed in seeds
        for image, label in [counted_balls(seed, 1 + seed % 2)]
    ]


@pytest.mark.parametrize(("question", "ordinal"), [("pair", False), ("balls", True)])
def test_scores_become_a_report_and_pictures(question: str, ordinal: bool, protocol: Protocol) -> None:
    """Only a number's answers have an order, which a weighted kappa is of."""
    asking = replace(protocol, questions=(PAIR, BALLS))
    targets = {"pair": ("no", "yes"), "balls": ("1", "2")}[question]
    plan = classification_plan(question=question, targets=targets)
    kit = kit_of(ModelTask.CLASSIFICATION)
    weights = learner_of(plan).network().state_dict()
    model = kit.model(kit.config(plan, 1), weights, CPU)
    cases = cases_of(range(8))
    scores = kit.score(model, cases, plan, asking)
    report = kit.report(
        scores, cases, plan=plan, protocol=asking, model="m 1.0.0", test_set="t", champion=("m 0.9.0", scores)
    )
    assert (report.task, report.cases) == ("classification", 8)
    assert (report.figure("weighted_kappa") is not None) == ordinal
    assert report.comparison is not None
    assert {figure.value for figure in report.comparison.differences} <= {0.0, None}
    drawn = [*kit.pictures(model, asking, [("worst", cases[0], 0.3)]), *kit.charts(scores)]
    assert [name for name, _ in drawn] == ["worst", "roc", "confusion", "reliability"]
    assert f"truly {targets[0]}" in drawn[0][1].get_suptitle()
    assert all(png(picture).startswith(b"\x89PNG") for _, picture in drawn)


def test_the_learner_of_a_classification_is_had_by_its_plan() -> None:
    assert isinstance(learner_of(classification_plan()), ClassificationLearner)


def test_readers_are_held_beside_the_model_by_how_often_they_answer_alike(protocol: Protocol, tmp_path: Path) -> None:
    """Two of three cases have two answers, one of them alike; the third has one answer only."""
    asking = replace(protocol, questions=(PAIR, REMARK))
    site = make_site(tmp_path / "site")
    store = Store(site.database_url, site.blobs)
    store.add_protocol(asking)
    accounts = Accounts(store, site)
    readers = [accounts.add(name, f"{name}-password", frozenset({Role.READER})) for name in ("ann", "ben")]
    given = {"P0": (True, True), "P1": (True, False), "P2": (False, None)}
    for patient in given:
        store.add_case(protocol=asking.name, patient=patient, volume=draw(int(patient[1]))[0], modality="MR")
    _, outline = draw(0)
    for place, reader in enumerate(readers):
        while case := next_case(store, asking.name, reader.id):
            answer = given[case.patient][place]
            label = replace(Label.of(outline), answers={} if answer is None else {"pair": answer})
            store.save_read(case_id=case.id, reader=reader.id, label=label)
    snapshot = [
        SnapshotCase(
            case=case.id,
            patient=case.patient,
            image=case.image,
            label="0" * 64,
            settled=Settled.CONSENSUS,
            reads=tuple(read.id for read in store.reads(case.id)),
            adjudication=None,
            geometry=case.geometry,
            held_out=True,
        )
        for case in store.cases(asking.name)
    ]
    assert len(snapshot) == 3
    plan = classification_plan(question="pair", targets=("no", "yes"))
    (accuracy,) = ClassificationKit().human(store, asking, plan, snapshot)
    assert (accuracy.name, accuracy.value, accuracy.n) == ("accuracy", 0.5, 2)
    assert ClassificationKit().human(store, asking, replace(plan, question="balls"), snapshot) == ()
    store.close()
