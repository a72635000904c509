"""A training that only tells: a small snapshot, its epochs and its report, and the run that is made of them."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from matplotlib.figure import Figure

from labeling_protocols.records import Settled
from labeling_protocols.strata import Strata
from tests.conftest import OBLIQUE
from tests.training.drawn import small_plan
from training.case_figures import PerCase
from training.checkpoint import Epoch
from training.plan import Plan
from training.report import Champion, EvaluationReport, build_report
from training.report import Figure as Number
from training.run_page import Progress, tell
from training.snapshot import Snapshot, SnapshotCase
from training.tracking import RunLog, Tracking

PLAN = small_plan(
    patch_RAS=(24, 24, 16), strides=((1, 1, 1), (2, 2, 2), (2, 2, 1)), epochs=6, learning_rate=0.01, validate_every=2
)
MOMENT_MS = 1_700_000_000_000
_STRUCTURES = ("anterior", "posterior")


@dataclass(frozen=True, kw_only=True)
class Scored:
    case: str
    patient: str
    strata: Strata
    values: Mapping[str, float | None]


def snapshot_of(cases: int = 30) -> Snapshot:
    """Two cases a patient; the last third of the patients is held out."""
    return Snapshot(
        protocol="hippocampus",
        protocol_version=2,
        protocol_digest="d" * 64,
        cases=tuple(
            SnapshotCase(
                case=f"c{number:03d}",
                patient=f"P{number // 2:03d}",
                image=f"{number:064x}",
                label=f"{number + 1000:064x}",
                settled=Settled.CONSENSUS if number % 3 else Settled.ADJUDICATION,
                reads=(2 * number, 2 * number + 1),
                adjudication=None,
                geometry=OBLIQUE,
                held_out=number // 2 >= cases // 3,
            )
            for number in range(cases)
        ),
        exclusions=(),
    )


def history(plan: Plan = PLAN, *, until: int | None = None) -> list[Epoch]:
    """What each epoch of a training shows; the same whenever it is told."""
    return [
        Epoch(
            number=number,
            epochs=plan.epochs,
            loss=1.0 / number,
            learning_rate=0.01 * (1 - number / (plan.epochs + 1)),
            figures={f"dice/{name}": 1 - 0.5 / number - 0.02 * place for place, name in enumerate(_STRUCTURES)}
            if number % plan.validate_every == 0
            else {},
            seconds=2.0,
            patches_per_s=40.0,
            moment_ms=MOMENT_MS + 2000 * number,
        )
        for number in range(1, (until or plan.epochs) + 1)
    ]


def report_of(snapshot: Snapshot, *, seed: int = 1) -> EvaluationReport:
    """Candidate and champion on the held-out cases of three sites, one of them with few; and what readers reach."""
    draw = random.Random(seed)

    def scored(lift: float) -> list[Scored]:
        return [
            Scored(
                case=case.case,
                patient=case.patient,
                strata=Strata(site="ABC"[min(place // 4, 2)], maker="Siemens" if place % 2 else "GE"),
                values={name: min(1.0, 0.8 + lift + draw.uniform(-0.1, 0.1)) for name in _names()},
            )
            for place, case in enumerate(snapshot.held_out)
        ]

    return build_report(
        scored(0.05),
        PerCase(_values),
        task="segmentation",
        model="hippocampus-segmentation 2.0.4",
        test_set=snapshot.digest,
        principal="dice_mean",
        values=_values,
        champion=Champion(name="2.0.3", scored=scored(0.0)),
        human=[Number(name=name, value=0.92, interval=None, n=10) for name in _names()],
        resamples=100,
    )


def tell_everything(tracking: Tracking, job: str = "train-hippocampus-0001") -> RunLog:
    """All that a training tells its run, from the plan to the gate."""
    snapshot = snapshot_of()
    with tracking.run(job, snapshot.protocol) as run:
        tracking.describe(run, snapshot, PLAN, {"device": "cpu", "job": job})
        tell(run, Progress(snapshot=snapshot, plan=PLAN, stage="Training"))
        for epoch in history():
            run.epoch(epoch)
        report = report_of(snapshot)
        run.evaluation(report, step=PLAN.epochs)
        for name in ("curves", "worst", "median", "best"):
            run.picture(f"pictures/{name}.png", picture())
        run.model(PLAN, "hippocampus-segmentation", {"version": "2.0.4", "bundle_sha256": "b" * 64}, report)
        done = Progress(
            snapshot=snapshot,
            plan=PLAN,
            stage="Released",
            report=report,
            passed=True,
            model_version="hippocampus-segmentation 2.0.4",
        )
        tell(run, done)
        run.close("FINISHED")
    return run


def picture() -> Figure:
    figure = Figure(figsize=(9, 3.5))
    figure.subplots().plot([epoch.number for epoch in history()], [epoch.loss for epoch in history()])
    return figure


def _values(one: Scored) -> Mapping[str, float | None]:
    return one.values


def _names() -> list[str]:
    return ["dice_mean", *(f"{kind}/{name}" for kind in ("dice", "surface_dice") for name in _STRUCTURES)]
