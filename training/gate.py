"""Whether a candidate may become champion: figures and limits in, a `Decision` with its reasons out. Pure functions."""

import json
from dataclasses import asdict, dataclass

from labeling_protocols.protocol import GateLimits
from training.evaluation import Evaluation


@dataclass(frozen=True, kw_only=True)
class Decision:
    """`reasons` say what was not reached; they are empty for a candidate that passed."""

    passed: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """A decision and what it is about.

    `bundle_sha256` ties it to one file; `champion` is the version it was compared with, None where there was none: a
    report that compares with a champion of yesterday moves nothing.
    """

    protocol: str
    run_id: str
    snapshot: str
    bundle_sha256: str
    champion: int | None
    dice: dict[str, float]
    dice_mean: float
    champion_dice_mean: float | None
    missed: int
    cases: int
    decision: Decision

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "GateReport":
        stored = json.loads(text)
        decision = stored["decision"]
        return cls(**{**stored, "decision": Decision(passed=decision["passed"], reasons=tuple(decision["reasons"]))})


def decide(limits: GateLimits, candidate: Evaluation, champion: Evaluation | None) -> Decision:
    """Hold a candidate's evaluation against the protocol's limits and against the champion's on the same cases."""
    if not candidate.scores:
        return Decision(passed=False, reasons=("no held-out case was scored",))
    reasons = [*_absolute(limits, candidate)]
    if champion is not None:
        reasons += _against(limits, candidate, champion)
    return Decision(passed=not reasons, reasons=tuple(reasons))


def report(
    decision: Decision,
    candidate: Evaluation,
    champion: Evaluation | None,
    *,
    protocol: str,
    run_id: str,
    snapshot: str,
    bundle_sha256: str,
    champion_number: int | None,
) -> GateReport:
    """The decision with what it rests on, as it is kept with the run and shown to whoever moves the champion."""
    return GateReport(
        protocol=protocol,
        run_id=run_id,
        snapshot=snapshot,
        bundle_sha256=bundle_sha256,
        champion=champion_number,
        dice=candidate.dice,
        dice_mean=candidate.dice_mean,
        champion_dice_mean=champion.dice_mean if champion else None,
        missed=candidate.missed,
        cases=len(candidate.cases),
        decision=decision,
    )


def _absolute(limits: GateLimits, candidate: Evaluation) -> list[str]:
    reasons = []
    if candidate.dice_mean < limits.dice_mean_min:
        reasons.append(f"mean Dice {candidate.dice_mean:.3f} < {limits.dice_mean_min:.3f}")
    for structure, least in limits.dice_min.items():
        found = candidate.dice.get(structure)
        if found is None:
            reasons.append(f"{structure}: not scored")
        elif found < least:
            reasons.append(f"{structure}: Dice {found:.3f} < {least:.3f}")
    if candidate.missed > limits.missed_max:
        reasons.append(f"{candidate.missed} structure(s) missed, at most {limits.missed_max} allowed")
    return reasons


def _against(limits: GateLimits, candidate: Evaluation, champion: Evaluation) -> list[str]:
    if champion.cases != candidate.cases:
        return ["the champion was scored on other cases than the candidate"]
    if candidate.dice_mean < champion.dice_mean - limits.dice_drop_max:
        return [
            f"mean Dice {candidate.dice_mean:.3f} is more than {limits.dice_drop_max:.3f}"
            f" below the champion's {champion.dice_mean:.3f}"
        ]
    return []
