"""A bundle and an external test set in, the report of the bundle's model on it out."""

from collections.abc import Callable, Iterator

from labeling_protocols.channels import channels_of
from labeling_protocols.label import Label
from labeling_protocols.protocol import Protocol
from training.bundle import Bundle
from training.external import ExternalTestSet
from training.group import choose_device
from training.inference import model_of
from training.report import EvaluationReport
from training.task_kit import TestCase


def evaluate_externally(
    bundle: Bundle,
    test_set: ExternalTestSet,
    protocol: Protocol,
    *,
    device: str = "auto",
    done: Callable[[], None] = lambda: None,
) -> tuple[EvaluationReport, int]:
    """The report, and after how many epochs the model was what it is; `done` is called after each case."""
    kit, plan, model = model_of(bundle, choose_device(device))
    known = {one.case: one for one in test_set.cases}

    def cases() -> Iterator[TestCase]:
        for case, images, truth in test_set.volumes():
            one, (image, *further) = known[case], channels_of(images)
            yield TestCase(
                case=case,
                patient=one.patient,
                strata=one.strata,
                image=image,
                label=Label.of(truth),
                further=dict(zip(protocol.channels[1:], further, strict=True)),
            )
            done()

    scores = kit.score(model, cases(), plan, protocol)
    report = kit.report(
        scores, test_set.cases, plan=plan, protocol=protocol, model=bundle.name, test_set=test_set.digest
    )
    return report, plan.epochs
