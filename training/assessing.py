"""The scoring step of a job: trained weights in; scores and reports on cases the networks did not learn from, out."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.figure import Figure as Picture

from labeling_protocols.blobs import write_durably
from training import report_pictures, run_page
from training.inference import model_of
from training.loop import TrainingCancelled
from training.plan import Plan
from training.report import EvaluationReport
from training.run_log import CROSS_VALIDATION, RunLog
from training.snapshot import SnapshotCase
from training.task_kit import TestCase
from training.tasks import kit_of
from training.workplace import Cancelled, Part, Tell, TrainingJob, Workplace

VALIDATED = "validated"
_CANDIDATE = "candidate"


def assess(place: Workplace, job: str, *, tell: Tell = lambda said: None, cancelled: Cancelled = lambda: False) -> None:
    """Score the trained model, and the champion of this moment, on the snapshot's held-out cases; keep both.

    Of a cross-validation also each fold's network on the cases it did not learn from, and all of them together. Where
    none are held out that is what the model is judged by; a champion may have learned from these cases and then looks
    better than it is.
    """
    work = TrainingJob(place, job)
    kept = work.folder / "evaluation.json"
    if not kept.exists():
        with work.running() as run:
            write_durably(kept, json.dumps(_Assessing(work, run, tell, cancelled).everything()).encode())


class _Assessing:
    def __init__(self, work: TrainingJob, run: RunLog, tell: Tell, cancelled: Cancelled) -> None:
        self._work, self._run, self._tell, self._cancelled = work, run, tell, cancelled
        self._plan = work.plan()
        self._kit = kit_of(self._plan.task)

    def everything(self) -> dict[str, Any]:
        """What the release rests on: reports as JSON, and the champion's number."""
        work, parts = self._work, self._work.parts(self._plan)
        cases = work.snapshot.held_out or _validation(parts)
        validated, folds = self._folds(parts) if len(parts) > 1 else ("", None)
        config = self._kit.config(self._plan, len(parts), validated)
        model = self._kit.model(config, work.weights(), work.device)
        scores = self._score(model, self._plan, cases, _CANDIDATE) if work.snapshot.held_out else validated
        human = self._kit.human(work.place.store, work.protocol, self._plan, cases)
        champion = work.place.registry.champion_or_none(work.protocol.name, self._plan.task)
        theirs, against = None, None
        if champion is not None:
            bundle = work.place.registry.bundle(champion)
            _, plan, served = model_of(bundle, work.device)
            against = (champion.name, self._score(served, plan, cases, "champion"))
            theirs = self._report(against[1], cases, champion.name, human=human)
        report = self._report(scores, cases, _CANDIDATE, champion=against, human=human)
        if work.snapshot.held_out:
            self._run.evaluation(report, step=self._plan.epochs)
        self._show(model, parts, scores, report)
        return {
            "report": report.as_json(),
            "champion": champion.number if champion else None,
            "champion_report": theirs.as_json() if theirs else None,
            CROSS_VALIDATION: folds.as_json() if folds else None,
            VALIDATED: validated,
        }

    def _folds(self, parts: Sequence[Part]) -> tuple[str, EvaluationReport]:
        """Each fold's network on its validation cases, in the fold's own run; and all of them in the job's.

        Returns the scores of all together and their report.
        """
        texts = []
        for part in parts:
            kept = part.folder / "scores.json"
            if not kept.exists():
                model = self._kit.model(self._kit.config(self._plan, 1), part.weights(), self._work.device)
                write_durably(kept, self._score(model, self._plan, part.validation, part.fold).encode())
            texts.append(kept.read_text())
            with self._work.running_part(self._run, part) as run:
                run.evaluation(self._report(texts[-1], part.validation, part.fold), self._plan.epochs, CROSS_VALIDATION)
                run.close("FINISHED")
        cases = _validation(parts)
        pooled = self._kit.pooled(texts)
        report = self._report(
            pooled,
            cases,
            CROSS_VALIDATION,
            human=self._kit.human(self._work.place.store, self._work.protocol, self._plan, cases),
        )
        self._run.evaluation(report, self._plan.epochs, CROSS_VALIDATION)
        return pooled, report

    def _score(self, model: Any, plan: Plan, cases: Sequence[SnapshotCase], whose: str) -> str:
        return self._kit.score(model, self._each(cases, whose), plan, self._work.protocol)

    def _each(self, cases: Sequence[SnapshotCase], whose: str) -> Iterator[TestCase]:
        for done, case in enumerate(cases):
            if self._cancelled():
                raise TrainingCancelled("cancelled during the evaluation; nothing was released")
            self._tell({"stage": "evaluating", "model": whose, "case": done + 1, "cases": len(cases)})
            yield self._work.test_case(case)

    def _report(self, scores: str, cases: Sequence[SnapshotCase], model: str, **beside: Any) -> EvaluationReport:
        return self._kit.report(
            scores,
            cases,
            plan=self._plan,
            protocol=self._work.protocol,
            model=model,
            test_set=self._work.snapshot.digest,
            **beside,
        )

    def _show(self, model: Any, parts: Sequence[Part], scores: str, report: EvaluationReport) -> None:
        """The report and the worst, median and best case as pictures, and the page that says what there is."""
        ranked = report.worst_first()
        places = {"worst": 0, "median": len(ranked) // 2, "best": len(ranked) - 1} if ranked else {}
        for rank, at in places.items():
            case, value = self._work.case(ranked[at][0]), ranked[at][1]
            asked = model if case.held_out else self._unseen_by(parts, case)
            shown = [(rank, self._work.test_case(case), value)]
            for name, picture in self._kit.pictures(asked, self._work.protocol, shown):
                self._run.picture(f"pictures/{name}.png", picture)
        for name, picture in (*_charts(report), *self._kit.charts(scores)):
            self._run.picture(f"pictures/{name}.png", picture)
        stage = "evaluated, not judged yet"
        run_page.tell(
            self._run, run_page.Progress(snapshot=self._work.snapshot, plan=self._plan, stage=stage, report=report)
        )

    def _unseen_by(self, parts: Sequence[Part], case: SnapshotCase) -> Any:
        """The network of the fold that did not learn from this case."""
        part = next(part for part in parts if case in part.validation)
        return self._kit.model(self._kit.config(self._plan, 1), part.weights(), self._work.device)


def _validation(parts: Sequence[Part]) -> tuple[SnapshotCase, ...]:
    return tuple(case for part in parts for case in part.validation)


def _charts(report: EvaluationReport) -> Iterator[tuple[str, Picture]]:
    yield "summary", report_pictures.summary(report)
    yield "cases", report_pictures.case_strip(report)
    if report.subgroups:
        yield "subgroups", report_pictures.subgroup_forest(report, report.principal)
