"""Champions made by hand for tests of serving: networks of one voxel whose answers can be worked out, and any other.

The drawn balls (`tests/training/drawn.py`) shine 200 and 100 in noise about 0. Scaled to 1, the networks call what
shines more than 177 anterior and more than 50 posterior; a click is worth more than any brightness about it.
"""

import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from apps.training_site import registry_of
from labeling_protocols.geometry import Geometry
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Case
from tests.annotation.served import Served
from tests.training.drawn import draw, small_plan
from tests.training.registered import snapshot_of
from training.bundle import CONFIG, METADATA, PLAN, REQUIRED, WEIGHTS, open_bundle, write_bundle
from training.gate_report import Decision, GateReport
from training.interactive_inference import interactive_config
from training.plan import ModelTask, Normalisation, Plan
from training.registry import BUNDLE_FOLDER, GATE_REPORT
from training.segmentation_inference import segmentation_config
from training.tracking import Tracking
from training.versioning import model_name

_BRIGHTNESS = {"normalisation": Normalisation.CT, "intensity_high": 200.0, "intensity_std": 200.0}
PATCH = (20, 20, 20)


def brightness_plan(task: ModelTask = ModelTask.SEGMENTATION, **values: Any) -> Plan:
    return small_plan(**{**_BRIGHTNESS, "task": task, "patch_RAS": PATCH, **values})


def segmentation_parts(plan: Plan | None = None) -> dict[str, bytes]:
    """A segmentation by brightness; of several channels, by that of the last."""
    plan = plan or brightness_plan()
    config, unseen = segmentation_config(plan), [0.0] * (max(len(plan.inputs), 1) - 1)
    network = _voxel_network(len(unseen) + 1)
    return parts_of(config | {"network_def": network}, _weights([[*unseen, by] for by in (0.0, 25.0, 5.0)]))


def interactive_parts() -> dict[str, bytes]:
    """The same, with clicks: a click for anterior, posterior and background each in a channel of its own."""
    config = interactive_config(brightness_plan(ModelTask.INTERACTIVE))
    weights = _weights([[0.0, 0.0, 0.0, 10.0], [25.0, 40.0, 0.0, 0.0], [5.0, 0.0, 40.0, 0.0]])
    return parts_of(config | {"network_def": _voxel_network(4)}, weights)


def parts_of(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, bytes]:
    """What a bundle must have, of which a configuration and weights count."""
    parts = {name: f"{name} of a test".encode() for name in REQUIRED}
    own = {name: tensor.clone() for name, tensor in weights.items()}  # networks name some tensors twice
    return parts | {CONFIG: json.dumps(config).encode(), WEIGHTS: safetensors.torch.save(own)}


def release(served: Served, protocol: Protocol, task: str, parts: Mapping[str, bytes]) -> str:
    """Register these parts as the protocol's next version for the task, its gate passed, and make it champion."""
    site, of_cases = served.site, snapshot_of(4)
    registry = registry_of(site)
    run = Tracking(site.tracking_uri, site.folder("mlflow") / "artifacts").run(
        f"{protocol.name}-{task}-{next(served.numbers)}", protocol.name
    )
    number = registry.reserve(protocol.name, run.id, task)
    plan_json = json.dumps({"network": "Conv3d"})
    version = registry.next_version(protocol.name, number, plan_json, of_cases, task)
    metadata = {
        "name": model_name(protocol.name, task),
        "version": version.number,
        "changelog": version.changelog,
        "overread": {
            "protocol": protocol.name,
            "task": task,
            "values": protocol.values,
            "snapshot": of_cases.digest,
            "run_id": run.id,
            "training_cases": 4,
        },
    }
    all_ = {**parts, METADATA: json.dumps(metadata).encode(), PLAN: plan_json.encode()}
    folder = site.folder("bundles")
    path = write_bundle(all_, name=metadata["name"], folder=folder, signing_key=site.signing_key)  # type: ignore[arg-type]
    bundle = open_bundle(path, site.public_key)
    champion = registry.champion_or_none(protocol.name, task)
    report = GateReport(
        protocol=protocol.name,
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
        decision=Decision(passed=True, reasons=()),
    )
    run.text(GATE_REPORT, report.as_json())
    run.files(bundle.folder, BUNDLE_FOLDER)
    registry.register(protocol.name, number, version.number, report)
    promoted = registry.promote(protocol.name, number, report)
    run.close("FINISHED")
    return promoted.name


def case_on(served: Served, protocol: Protocol, geometry: Geometry, seed: int = 3) -> Case:
    """A case with the drawn balls on this grid."""
    image, _ = draw(seed, geometry)
    return served.store.add_case(protocol=protocol.name, patient=f"P{seed}", volume=image, modality="MR")[0]


def _voxel_network(channels_in: int) -> dict[str, Any]:
    """Background, anterior and posterior of each voxel for itself."""
    return {"_target_": "torch.nn.Conv3d", "in_channels": channels_in, "out_channels": 3, "kernel_size": 1}


def _weights(rows: list[list[float]]) -> dict[str, Tensor]:
    weight = torch.tensor(rows)[:, :, None, None, None].contiguous()
    return {"weight": weight, "bias": torch.tensor([0.0, -19.0, -1.25])}
