"""Versions of a model as the registry has them, without a training: runs, signed bundles and gate reports made here."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from labeling_protocols.strata import Strata
from tests.training.drawn import STRAIGHT
from training.bundle import METADATA, PLAN, REQUIRED, open_bundle, write_bundle
from training.gate_report import Decision, GateReport
from training.registry import BUNDLE_FOLDER, GATE_REPORT, ModelVersion, Registry
from training.snapshot import Snapshot, SnapshotCase
from training.tracking import Tracking
from training.versioning import model_name

PROTOCOL = "hippocampus"
PASSED = Decision(passed=True, reasons=())
REFUSED = Decision(passed=False, reasons=("mean Dice 0.600 < 0.700",))
PLAN_VALUES: dict[str, Any] = {"network": "UNet", "epochs": 40, "spacing_mm_RAS": [1.0, 1.0, 1.0]}


def snapshot_of(training: int, *, version: int = 1) -> Snapshot:
    """A snapshot of so many training cases and one held-out case."""
    cases = tuple(
        SnapshotCase(
            case=f"c{number}",
            patient=f"P{number}",
            image="0" * 64,
            label="1" * 64,
            settled="consensus",
            reads=(1, 2),
            adjudication=None,
            geometry=STRAIGHT,
            held_out=number == training,
            strata=Strata(),
        )
        for number in range(training + 1)
    )
    return Snapshot(protocol=PROTOCOL, protocol_version=version, protocol_digest="2" * 64, cases=cases, exclusions=())


@dataclass
class Registered:
    """A registry and what its versions were made of; `reports` are gate reports by number."""

    tracking_uri: str
    artifacts: Path
    bundles: Path
    key: Ed25519PrivateKey
    reports: dict[int, GateReport] = field(default_factory=dict)

    @property
    def registry(self) -> Registry:
        return Registry(self.tracking_uri, self.bundles, self.key.public_key())

    def add(
        self,
        decision: Decision = PASSED,
        *,
        task: str = "segmentation",
        snapshot: Snapshot | None = None,
        plan: Mapping[str, Any] | None = None,
        promoted: bool = True,
    ) -> ModelVersion:
        """Register one more version, compared with the champion of this moment, and promote it where it passed."""
        registry, of_cases = self.registry, snapshot or snapshot_of(4)
        plan_json = json.dumps({**PLAN_VALUES, **(plan or {})})
        run = Tracking(self.tracking_uri, self.artifacts).run(f"{task}-{len(self.reports)}", PROTOCOL)
        number = registry.reserve(PROTOCOL, run.id, task)
        version = registry.next_version(PROTOCOL, number, plan_json, of_cases, task)
        metadata = {
            "name": model_name(PROTOCOL, task),
            "version": version.number,
            "changelog": version.changelog,
            "overread": {
                "protocol": PROTOCOL,
                "task": task,
                "snapshot": of_cases.digest,
                "run_id": run.id,
                "training_cases": len(of_cases.training),
            },
        }
        parts = {name: f"{name} of {run.id}".encode() for name in REQUIRED}
        parts |= {METADATA: json.dumps(metadata).encode(), PLAN: plan_json.encode()}
        path = write_bundle(parts, name=model_name(PROTOCOL, task), folder=self.bundles, signing_key=self.key)
        bundle = open_bundle(path, self.key.public_key())
        champion = registry.champion_or_none(PROTOCOL, task)
        report = GateReport(
            protocol=PROTOCOL,
            task=task,
            run_id=run.id,
            snapshot=of_cases.digest,
            bundle_sha256=bundle.sha256,
            champion=champion.number if champion else None,
            evaluation="3" * 64,
            test_set=of_cases.digest,
            figures={"dice_mean": 0.8},
            missed=0,
            cases=1,
            patients=1,
            decision=decision,
        )
        run.text(GATE_REPORT, report.as_json())
        run.files(bundle.folder, BUNDLE_FOLDER)
        registered = registry.register(PROTOCOL, number, version.number, report)
        self.reports[number] = report
        if decision.passed and promoted:
            registered = registry.promote(PROTOCOL, number, report)
        run.close("FINISHED")
        return registered

    def evaluated_again(self, number: int, champion: int | None) -> GateReport:
        """The version's gate report of a later evaluation, against another champion."""
        report = replace(self.reports[number], champion=champion)
        version = self.registry.version(PROTOCOL, number, report.task)
        Tracking(self.tracking_uri, self.artifacts).client.log_text(version.run_id, report.as_json(), GATE_REPORT)
        self.registry.register(PROTOCOL, number, version.version, report)
        self.reports[number] = report
        return report
