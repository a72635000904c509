"""A trained model with everything that its bundle says about it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from labeling_protocols.protocol import Protocol
from training.change_control import ChangePlan
from training.gate_report import Decision
from training.plan import Plan
from training.report import EvaluationReport
from training.snapshot import Snapshot
from training.versioning import model_name


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """`version` and `changelog` are those of `versioning.Version`; `members` says how many networks answer together,
    `validated` holds the scores of their cross-validation, if there was one.

    The weights of an ensemble are those of all its networks, each tensor named after its network's place and a dot.
    """

    protocol: Protocol
    snapshot: Snapshot
    plan: Plan
    run_id: str
    version: str
    changelog: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, Tensor]
    members: int = 1
    validated: str = ""
    report: EvaluationReport
    decision: Decision
    change_plan: ChangePlan | None = None

    @property
    def name(self) -> str:
        return model_name(self.protocol.name, self.plan.task)
