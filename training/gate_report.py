"""A gate's decision with everything it rests on, named by digests: reports and numbers in, one JSON text out."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from training.change_control import ChangePlan
from training.report import EvaluationReport


@dataclass(frozen=True, kw_only=True)
class Decision:
    """`reasons` say what was not reached, all of it; they are empty for a candidate that passed.

    `notes` say what could not be decided, such as subgroups that are too small.
    """

    passed: bool
    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """A decision and what it is about.

    `bundle_sha256` ties it to one file; `champion` is the number of the version it was compared with, None where there
    was none: a report that compares with a champion of yesterday moves nothing. `evaluation`, `champion_evaluation` and
    `change_plan` are digests of the evaluation reports and of the plan it was judged by; figures go by name.
    """

    protocol: str
    task: str = "segmentation"
    run_id: str
    snapshot: str
    bundle_sha256: str
    champion: int | None
    evaluation: str
    champion_evaluation: str | None = None
    change_plan: str | None = None
    test_set: str
    figures: Mapping[str, float | None] = field(default_factory=dict)
    champion_figures: Mapping[str, float | None] = field(default_factory=dict)
    missed: int
    champion_missed: int | None = None
    cases: int
    patients: int
    decision: Decision

    def as_json(self) -> str:
        """Equal reports give equal text."""
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.as_json().encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str) -> "GateReport":
        """Raises `ValueError` where the text is no gate report."""
        stored = json.loads(text)
        if isinstance(stored, dict) and "dice_mean" in stored:
            stored = _of_first_version(stored)
        known = {one.name for one in fields(cls)}
        if not isinstance(stored, dict) or set(stored) != known:
            raise ValueError(f"this is no gate report: expected an object with {', '.join(sorted(known))}")
        decision = stored["decision"]
        return cls(**{**stored, "decision": Decision(**{name: _listed(value) for name, value in decision.items()})})


def report(
    decision: Decision,
    candidate: EvaluationReport,
    champion: EvaluationReport | None,
    *,
    protocol: str,
    run_id: str,
    snapshot: str,
    bundle_sha256: str,
    champion_number: int | None,
    change_plan: ChangePlan | None = None,
) -> GateReport:
    """The decision with what it rests on, as it is kept with the run and shown to whoever moves the champion."""
    return GateReport(
        protocol=protocol,
        task=candidate.task,
        run_id=run_id,
        snapshot=snapshot,
        bundle_sha256=bundle_sha256,
        champion=champion_number,
        evaluation=candidate.digest,
        champion_evaluation=champion.digest if champion else None,
        change_plan=change_plan.digest if change_plan else None,
        test_set=candidate.test_set,
        figures=_figures(candidate),
        champion_figures=_figures(champion) if champion else {},
        missed=candidate.missed,
        champion_missed=champion.missed if champion else None,
        cases=candidate.cases,
        patients=candidate.patients,
        decision=decision,
    )


def _figures(of: EvaluationReport) -> dict[str, float | None]:
    return {figure.name: figure.value for figure in of.figures}


def _listed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _of_first_version(stored: dict[str, Any]) -> dict[str, Any]:
    """A report from before there were evaluation reports: its Dice are figures, and what it rests on has no digest."""
    dice, mean, theirs = stored.pop("dice"), stored.pop("dice_mean"), stored.pop("champion_dice_mean")
    return {
        **stored,
        "task": "segmentation",
        "evaluation": "",
        "champion_evaluation": None,
        "change_plan": None,
        "test_set": stored["snapshot"],
        "figures": {"dice_mean": mean, **{f"dice/{name}": value for name, value in dice.items()}},
        "champion_figures": {} if theirs is None else {"dice_mean": theirs},
        "champion_missed": None,
        "patients": 0,
    }
