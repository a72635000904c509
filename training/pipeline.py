"""From settled cases to a registered version: snapshot, plan, run, evaluation, gate, bundle, release where it passed.

Each step keeps what it made in the job's folder and finds it there when it is run again, so a worker that was killed at
any point and started again comes to one MLflow run and one version.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from labeling_protocols import audit
from labeling_protocols.blobs import write_durably
from training import gate, run_page, snapshot_index
from training.assessing import VALIDATED, assess
from training.bundle import PLAN, open_bundle, write_bundle
from training.change_control import find_change_plan
from training.changes import Changes, changes, made_of
from training.fitting import train
from training.model_card import Candidate, bundle_parts
from training.registry import BUNDLE_FOLDER, GATE_REPORT, ModelVersion
from training.report import EvaluationReport
from training.request import TrainingRequest
from training.run_log import CROSS_VALIDATION, RunLog, judged_by
from training.snapshot import SnapshotError, open_snapshot
from training.workplace import Cancelled, Tell, TrainingJob, Workplace

__all__ = ["Outcome", "Workplace", "assess", "release", "take_snapshot", "train", "train_candidate"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a training came to; `promoted` says whether its version is the champion now.

    `judged_on` says what the `figures` by name are of, `principal` is the one that cases are ranked by, and
    `cross_validation` are the figures on the training cases of all folds, empty where there were none.
    """

    run_id: str
    task: str
    snapshot: str
    number: int
    model_version: str
    bundle_sha256: str
    principal: str
    judged_on: str
    figures: Mapping[str, float | None]
    cross_validation: Mapping[str, float | None]
    cases: int
    missed: int
    passed: bool
    reasons: tuple[str, ...]
    promoted: bool


def train_candidate(
    place: Workplace,
    request: TrainingRequest,
    job: str,
    *,
    tell: Tell = lambda said: None,
    cancelled: Cancelled = lambda: False,
) -> Outcome:
    """Everything, in order; called again with the same job it goes on where it was."""
    take_snapshot(place, request, job)
    train(place, job, tell=tell, cancelled=cancelled)
    assess(place, job, tell=tell, cancelled=cancelled)
    return release(place, job, tell=tell)


def take_snapshot(place: Workplace, request: TrainingRequest, job: str) -> str:
    """Keep the request, and the snapshot that it names or that of the protocol's truths as they are now.

    Returns the snapshot's digest. Raises `SnapshotError`.
    """
    folder = place.job_folder(job)
    kept = folder / "snapshot"
    if not kept.exists():
        if request.snapshot:
            digest = snapshot_index.find(place.store, request.snapshot)
        else:
            share = place.held_out_share
            taken = snapshot_index.take(place.store, request.protocol, secret=place.secret, held_out_share=share)
            digest = taken.digest
        if request.folds < 2 and not open_snapshot(digest, place.store.blobs).held_out:
            raise SnapshotError(
                f"snapshot {digest[:12]} holds no case out to judge a model on; a cross-validation (--folds 5), or a"
                " held_out_share in the configuration before its first snapshot, is expected. Nothing was trained."
            )
        write_durably(folder / "request.json", request.as_json().encode())
        write_durably(kept, digest.encode())
    return kept.read_text()


def release(place: Workplace, job: str, *, tell: Tell = lambda said: None) -> Outcome:
    """Judge, bundle and register the job's model, and make it champion where it passed its gate."""
    work = TrainingJob(place, job)
    tell({"stage": "releasing"})
    plan, protocol = work.plan(), work.protocol
    stored = json.loads((work.folder / "evaluation.json").read_text())
    report = EvaluationReport.from_json(stored["report"])
    against = EvaluationReport.from_json(stored["champion_report"]) if stored["champion_report"] else None
    with work.running() as run:
        change_plan = find_change_plan(place.change_plans, protocol.name, plan.task)
        decision = gate.decide(protocol.gate, change_plan, report, against, _changes(work, against is not None))
        number = place.registry.reserve(protocol.name, run.id, plan.task)
        version = place.registry.next_version(protocol.name, number, plan.as_json(), work.snapshot, plan.task)
        candidate = Candidate(
            protocol=protocol,
            snapshot=work.snapshot,
            plan=plan,
            run_id=run.id,
            version=version.number,
            changelog=version.changelog,
            weights=work.weights(),
            members=len(work.parts(plan)),
            validated=stored[VALIDATED],
            report=report,
            decision=decision,
            change_plan=change_plan,
        )
        path = write_bundle(
            bundle_parts(candidate), name=candidate.name, folder=place.bundles, signing_key=place.signing_key
        )
        bundle = open_bundle(path, place.signing_key.public_key())
        gate_report = gate.report(
            decision,
            report,
            against,
            protocol=protocol.name,
            run_id=run.id,
            snapshot=work.snapshot.digest,
            bundle_sha256=bundle.sha256,
            champion_number=stored["champion"],
            change_plan=change_plan,
        )
        run.text(GATE_REPORT, gate_report.as_json())
        run.files(bundle.folder, BUNDLE_FOLDER)
        facts = {"overread.gate": "passed" if decision.passed else "refused", "overread.bundle_sha256": bundle.sha256}
        run.tag(facts)
        about = {"bundle_sha256": bundle.sha256, "version": version.number}
        run.model(plan, candidate.name, about, report, judged_by(work.snapshot))
        registered = place.registry.register(protocol.name, number, candidate.version, gate_report)
        if decision.passed:
            registered = place.registry.promote(protocol.name, number, gate_report)
            _note_release(place, registered, job)
        _tell_page(run, work, registered, report, decision)
        run.close("FINISHED")
    folds = EvaluationReport.from_json(stored[CROSS_VALIDATION]) if stored[CROSS_VALIDATION] else None
    return _outcome(registered, report, folds, gate_report, work.snapshot.judged_on)


def _note_release(place: Workplace, champion: ModelVersion, job: str) -> None:
    with place.store.writing() as connection:
        audit.append(
            connection,
            actor=job,
            action=audit.Action.MODEL_RELEASED,
            subject=champion.name,
            number=champion.number,
            bundle=champion.bundle_sha256,
        )


def _changes(work: TrainingJob, there_is_a_champion: bool) -> Changes | None:
    """What differs from the champion's training; None where there is no champion."""
    champion = work.champion_bundle() if there_is_a_champion else None
    if champion is None:
        return None
    before = made_of(
        champion.read(PLAN).decode(),
        open_snapshot(champion.metadata["overread"]["snapshot"], work.place.store.blobs),
    )
    return changes(before, made_of(work.plan().as_json(), work.snapshot))


def _tell_page(
    run: RunLog, work: TrainingJob, version: ModelVersion, report: EvaluationReport, decision: gate.Decision
) -> None:
    page = run_page.Progress(
        snapshot=work.snapshot,
        plan=work.plan(),
        stage="released",
        report=report,
        passed=decision.passed,
        reasons=decision.reasons,
        model_version=version.name,
    )
    run_page.tell(run, page)


def _outcome(
    version: ModelVersion,
    report: EvaluationReport,
    folds: EvaluationReport | None,
    gate_report: gate.GateReport,
    judged_on: str,
) -> Outcome:
    return Outcome(
        run_id=version.run_id,
        task=report.task,
        snapshot=version.snapshot,
        number=version.number,
        model_version=version.name,
        bundle_sha256=version.bundle_sha256,
        principal=report.principal,
        judged_on=judged_on,
        figures={figure.name: figure.value for figure in report.figures},
        cross_validation={figure.name: figure.value for figure in folds.figures} if folds else {},
        cases=report.cases,
        missed=report.missed,
        passed=gate_report.decision.passed,
        reasons=gate_report.decision.reasons,
        promoted="champion" in version.aliases,
    )
