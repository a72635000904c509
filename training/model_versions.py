"""One version of a registered model, as MLflow's entry of it says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from training.versioning import model_name

SEGMENTATION = "segmentation"


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """`number` is MLflow's, `version` the bundle's semantic one.

    `gate_report` is the digest of the gate's report, empty for versions of earlier releases. `override` says, in words,
    who released it although its gate refused it, and why; empty for all others.
    """

    protocol: str
    number: int
    version: str
    run_id: str
    snapshot: str
    bundle_sha256: str
    gate_passed: bool
    aliases: frozenset[str]
    task: str = SEGMENTATION
    gate_report: str = ""
    override: str = ""

    @property
    def model(self) -> str:
        return model_name(self.protocol, self.task)

    @property
    def name(self) -> str:
        """As results and prelabels carry it: 'hippocampus-segmentation 1.0.3'."""
        return f"{self.model} {self.version}"


def is_complete(entry: Any) -> bool:
    """Whether MLflow's entry has its bundle; one that was only reserved has not."""
    return "bundle_sha256" in entry.tags


def model_version(protocol: str, task: str, entry: Any, aliases: Mapping[int, set[str]]) -> ModelVersion:
    """MLflow's entry of a complete version; `aliases` go by number."""
    number, tags = int(entry.version), entry.tags
    return ModelVersion(
        protocol=protocol,
        task=task,
        number=number,
        version=tags["version"],
        run_id=entry.run_id,
        snapshot=tags["snapshot"],
        bundle_sha256=tags["bundle_sha256"],
        gate_passed=tags["gate"] == "passed",
        gate_report=tags.get("gate_report", ""),
        override=tags.get("override", ""),
        aliases=frozenset(aliases.get(number, ())),
    )
