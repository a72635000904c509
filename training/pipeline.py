"""From settled cases to a registered version: snapshot, plan, run, evaluation, gate, bundle, release where it passed.

Each step keeps what it made in the job's folder and finds it there when it is run again, so a worker that was killed at
any point and started again comes to one MLflow run and one version.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from labeling_protocols.blobs import write_durably
from labeling_protocols.geometry import Volume
from labeling_protocols.protocol import Protocol
from labeling_protocols.settlement import truths
from labeling_protocols.store import Store
from labeling_protocols.volumes import read_volume_bytes
from training import gate, pictures
from training.bundle import open_bundle, write_bundle
from training.checkpoint import Epoch
from training.evaluation import Evaluation, evaluate
from training.inference import Predictor, Segmenter
from training.group import choose_device
from training.learner import Learner
from training.learners import learner_of
from training.loop import TrainingCancelled, fit, native_precision
from training.model_card import Candidate, bundle_parts, inference_config
from training.plan import Plan, make_plan, override, take_fingerprint
from training.registry import BUNDLE_FOLDER, GATE_REPORT, ModelVersion, Registry
from training.snapshot import Snapshot, SnapshotCase, keep_snapshot, make_snapshot, open_snapshot
from training.tracking import RunLog, Tracking

Tell = Callable[[dict[str, Any]], None]
Cancelled = Callable[[], bool]

_JOB = re.compile(r"^[a-z][a-z0-9_-]{0,99}$")


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """What a training needs of its site.

    `folder` holds a folder a job, `artifacts` is MLflow's, `overrides` replace values of the plan.
    """

    store: Store
    tracking_uri: str
    artifacts: Path
    folder: Path
    bundles: Path
    secret: bytes
    signing_key: Ed25519PrivateKey
    device: str = "auto"
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def job_folder(self, job: str) -> Path:
        if not _JOB.match(job):
            raise ValueError("a training job's id is made of lower-case letters, digits, '-' and '_'")
        folder = self.folder / job
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def registry(self) -> Registry:
        return Registry(self.tracking_uri, self.bundles, self.signing_key.public_key())

    @property
    def tracking(self) -> Tracking:
        return Tracking(self.tracking_uri, self.artifacts)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a training came to; `promoted` says whether its version is the champion now."""

    run_id: str
    snapshot: str
    number: int
    model_version: str
    bundle_sha256: str
    dice: dict[str, float]
    dice_mean: float
    cases: int
    passed: bool
    reasons: tuple[str, ...]
    promoted: bool


def train_candidate(
    place: Workplace, protocol: str, job: str, *, tell: Tell = lambda said: None, cancelled: Cancelled = lambda: False
) -> Outcome:
    """Everything, in order; called again with the same job it goes on where it was."""
    take_snapshot(place, protocol, job)
    train(place, job, tell=tell, cancelled=cancelled)
    assess(place, job, tell=tell, cancelled=cancelled)
    return release(place, job, tell=tell)


def take_snapshot(place: Workplace, protocol: str, job: str) -> str:
    """Keep the snapshot of the protocol's truths as they are now; returns its digest. Raises `SnapshotError`."""
    kept = place.job_folder(job) / "snapshot"
    if not kept.exists():
        snapshot = make_snapshot(place.store.protocol(protocol), truths(place.store, protocol), secret=place.secret)
        write_durably(kept, keep_snapshot(snapshot, place.store.blobs).encode())
    return kept.read_text()


def train(place: Workplace, job: str, *, tell: Tell = lambda said: None, cancelled: Cancelled = lambda: False) -> str:
    """Plan and train on the job's snapshot in one MLflow run; returns the run's id."""
    work = _Work(place, job)
    with work.running() as run:
        if not work.weights_file.exists():
            tell({"stage": "preparing", "cases": len(work.snapshot.cases)})
            plan = work.plan()
            place.tracking.describe(run, work.snapshot, plan, {"device": str(work.device), "job": job})
            learner = learner_of(plan)
            history: list[Epoch] = []

            def epoch_done(epoch: Epoch) -> None:
                history.append(epoch)
                run.epoch(epoch)
                tell({"stage": "training", **_spoken(epoch)})

            weights = fit(
                plan,
                learner,
                work.examples(learner, work.snapshot.training),
                work.examples(learner, work.snapshot.held_out),
                folder=work.folder / "checkpoints",
                device=work.device,
                tell=epoch_done,
                cancelled=cancelled,
            )
            run.picture("pictures/curves.png", pictures.curves(history))
            write_durably(work.weights_file, safetensors.torch.save(weights))
        return run.id


def assess(place: Workplace, job: str, *, tell: Tell = lambda said: None, cancelled: Cancelled = lambda: False) -> None:
    """Score the trained model, and the champion of this moment, on the snapshot's held-out cases; keep both."""
    work = _Work(place, job)
    kept = work.folder / "evaluation.json"
    if kept.exists():
        return
    with work.running() as run:
        champion = place.registry.champion_or_none(work.protocol.name)
        stored: dict[str, Any] = {"champion": None, "champion_evaluation": None}
        if champion is not None:
            predictor = Predictor(place.registry.bundle(champion), place.device)
            scored = work.evaluate(predictor.predict, "champion", tell, cancelled)
            stored = {"champion": champion.number, "champion_evaluation": scored.as_json()}
        segmenter = Segmenter(inference_config(work.plan()), work.weights(), work.device)
        evaluation = work.evaluate(segmenter.predict, "candidate", tell, cancelled)
        run.text("evaluation.json", evaluation.as_json())
        run.figures(_figures(evaluation), step=work.plan().epochs)
        for rank, case in _worst_median_best(evaluation):
            image, truth = work.case(case)
            title = f"{rank} held-out case, mean Dice {evaluation.case_dice()[case]:.3f}"
            figure = pictures.overlay(work.protocol, title, image, truth, segmenter.predict(image))
            run.picture(f"pictures/{rank}.png", figure)
        write_durably(kept, json.dumps({**stored, "evaluation": evaluation.as_json()}).encode())


def release(place: Workplace, job: str, *, tell: Tell = lambda said: None) -> Outcome:
    """Judge, bundle and register the job's model, and make it champion where it passed its gate."""
    work = _Work(place, job)
    tell({"stage": "releasing"})
    with work.running() as run:
        evaluation, champion, champion_number = work.evaluations()
        decision = gate.decide(work.protocol.gate, evaluation, champion)
        number = place.registry.reserve(work.protocol.name, run.id)
        version = f"{work.protocol.version}.0.{number}"
        candidate = Candidate(
            protocol=work.protocol,
            snapshot=work.snapshot,
            plan=work.plan(),
            run_id=run.id,
            version=version,
            weights=work.weights(),
            evaluation=evaluation,
            decision=decision,
        )
        path = write_bundle(
            bundle_parts(candidate), name=candidate.name, folder=place.bundles, signing_key=place.signing_key
        )
        bundle = open_bundle(path, place.signing_key.public_key())
        gate_report = gate.report(
            decision,
            evaluation,
            champion,
            protocol=work.protocol.name,
            run_id=run.id,
            snapshot=work.snapshot.digest,
            bundle_sha256=bundle.sha256,
            champion_number=champion_number,
        )
        run.text(GATE_REPORT, gate_report.as_json())
        run.files(bundle.folder, BUNDLE_FOLDER)
        run.tag({"overread.gate": "passed" if decision.passed else "refused", "overread.bundle_sha256": bundle.sha256})
        registered = place.registry.register(work.protocol.name, number, version, gate_report)
        if decision.passed:
            registered = place.registry.promote(work.protocol.name, number, gate_report)
        run.close("FINISHED")
    return _outcome(registered, evaluation, gate_report)


class _Work:
    """One job's folder and what the steps read from it and from the store."""

    def __init__(self, place: Workplace, job: str) -> None:
        self._place = place
        self._job = job
        self.folder = place.job_folder(job)
        self.device = choose_device(place.device)
        self.weights_file = self.folder / "weights.safetensors"
        self.snapshot: Snapshot = open_snapshot((self.folder / "snapshot").read_text(), place.store.blobs)
        self.protocol: Protocol = place.store.protocol(self.snapshot.protocol, self.snapshot.protocol_version)

    @contextmanager
    def running(self) -> Iterator[RunLog]:
        """The job's MLflow run; what fails or cancels the step is written there too, a mere interruption is not."""
        run = self._place.tracking.run(self._job, self.protocol.name)
        try:
            yield run
        except TrainingCancelled:
            run.close("KILLED")
            raise
        except Exception:
            run.close("FAILED")
            raise

    def plan(self) -> Plan:
        """The job's plan, made from the training cases' fingerprint the first time."""
        kept = self.folder / "plan.json"
        if not kept.exists():
            volumes = [self._volumes(case) for case in self.snapshot.training]
            plan = make_plan(
                take_fingerprint([image for image, _ in volumes], [label for _, label in volumes]),
                values=self.protocol.values,
                modality=self.protocol.modality[0],
                precision=native_precision(self.device),
            )
            write_durably(kept, override(plan, self._place.overrides).as_json().encode())
        return Plan.from_json(kept.read_text())

    def examples(self, learner: Learner, cases: Sequence[SnapshotCase]) -> list[Any]:
        found = []
        for case in cases:
            image, _ = self._volumes(case)
            found.append(learner.prepare(case.case, image, self._place.store.label(case.label)))
        return found

    def weights(self) -> dict[str, torch.Tensor]:
        return safetensors.torch.load(self.weights_file.read_bytes())

    def evaluate(self, predict: Callable[[Volume], Volume], whose: str, tell: Tell, cancelled: Cancelled) -> Evaluation:
        def held_out() -> Iterator[tuple[str, Volume, Volume]]:
            for done, case in enumerate(self.snapshot.held_out):
                if cancelled():
                    raise TrainingCancelled("cancelled during the evaluation; nothing was released")
                tell({"stage": "evaluating", "model": whose, "case": done + 1, "cases": len(self.snapshot.held_out)})
                yield case.case, *self._volumes(case)

        return evaluate(predict, held_out(), self.protocol.values)

    def evaluations(self) -> tuple[Evaluation, Evaluation | None, int | None]:
        """The candidate's and the champion's evaluation as they were kept, and the champion's number."""
        stored = json.loads((self.folder / "evaluation.json").read_text())
        champion = stored["champion_evaluation"]
        return (
            Evaluation.from_json(stored["evaluation"]),
            Evaluation.from_json(champion) if champion else None,
            stored["champion"],
        )

    def case(self, case_id: str) -> tuple[Volume, Volume]:
        return self._volumes(next(case for case in self.snapshot.cases if case.case == case_id))

    def _volumes(self, case: SnapshotCase) -> tuple[Volume, Volume]:
        """Image and truth by their digests, each re-hashed as it is read."""
        image = read_volume_bytes(self._place.store.blobs.get(case.image), ".nii.gz")
        return image, self._place.store.label(case.label).volume()


def _spoken(epoch: Epoch) -> dict[str, Any]:
    said: dict[str, Any] = {"epoch": epoch.number, "epochs": epoch.epochs, "loss": epoch.loss}
    return said | ({"figures": epoch.figures} if epoch.figures else {})


def _figures(evaluation: Evaluation) -> dict[str, float]:
    distances = {f"held_out_hd95_mm_{name}": mm for name, mm in evaluation.hd95_median_mm.items() if mm is not None}
    return {
        "held_out_dice_mean": evaluation.dice_mean,
        **{f"held_out_dice_{name}": dice for name, dice in evaluation.dice.items()},
        **distances,
        "held_out_missed": float(evaluation.missed),
        "held_out_invented": float(evaluation.invented),
    }


def _worst_median_best(evaluation: Evaluation) -> list[tuple[str, str]]:
    by_dice = list(evaluation.case_dice())
    return [("worst", by_dice[0]), ("median", by_dice[len(by_dice) // 2]), ("best", by_dice[-1])] if by_dice else []


def _outcome(version: ModelVersion, evaluation: Evaluation, gate_report: gate.GateReport) -> Outcome:
    return Outcome(
        run_id=version.run_id,
        snapshot=version.snapshot,
        number=version.number,
        model_version=version.name,
        bundle_sha256=version.bundle_sha256,
        dice=evaluation.dice,
        dice_mean=evaluation.dice_mean,
        cases=len(evaluation.cases),
        passed=gate_report.decision.passed,
        reasons=gate_report.decision.reasons,
        promoted="champion" in version.aliases,
    )
