"""A champion that is quick to make and whose answer is known: a signed bundle that cuts the intensity at two levels."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from apps.settings import Site
from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.protocol import Protocol
from training.bundle import CONFIG, METADATA, WEIGHTS, write_bundle
from training.gate import Decision, GateReport
from training.registry import GATE_REPORT, ModelVersion, Registry
from training.tracking import Tracking

# Above these values a voxel is anterior or posterior hippocampus.
_ANTERIOR_FROM, _POSTERIOR_FROM = 300.0, 700.0


def phantom_of(geometry: Geometry) -> tuple[Volume, Volume]:
    """An image and the label that the champion draws on it: a few asymmetric voxels of each structure."""
    label = np.zeros(geometry.shape_ZYX, np.uint8)
    label[1:3, 1:4, 1:3] = 1
    label[2, 1, 1] = 0
    label[3, 2:5, 4:7] = 2
    image = np.array([100, 500, 900], np.int16)[label]
    return Volume(array_ZYX=image, geometry=geometry), Volume(array_ZYX=label, geometry=geometry)


def release_champion(site: Site, protocol: Protocol) -> ModelVersion:
    """Sign, register and promote the two-level model by the registry's own ways."""
    (site.root / "mlflow" / "artifacts").mkdir(exist_ok=True)
    registry = Registry(site.tracking_uri, site.folder("bundles"), site.public_key)
    name = f"train-test-{len(registry.versions(protocol.name))}"
    run = Tracking(site.tracking_uri, site.root / "mlflow" / "artifacts").run(name, protocol.name)
    standing = registry.champion_or_none(protocol.name)
    number = registry.reserve(protocol.name, run.id)
    version = f"{protocol.version}.0.{number}"
    path = write_bundle(
        _parts(protocol, version),
        name=f"{protocol.name}-segmentation",
        folder=site.folder("bundles"),
        signing_key=site.signing_key,
    )
    report = GateReport(
        protocol=protocol.name,
        run_id=run.id,
        snapshot="0" * 64,
        bundle_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        champion=standing.number if standing else None,
        evaluation="1" * 64,
        test_set="0" * 64,
        figures={"dice_mean": 1.0},
        missed=0,
        cases=1,
        patients=1,
        decision=Decision(passed=True, reasons=()),
    )
    run.text(GATE_REPORT, report.as_json())
    registry.register(protocol.name, number, version, report)
    return registry.promote(protocol.name, number, report)


def _parts(protocol: Protocol, version: str) -> dict[str, bytes]:
    # Class scores that are linear in the intensity x: 0, x - 300 and (x - 300) + (x - 700).
    weights = {
        "weight": torch.tensor([0.0, 1.0, 2.0]).reshape(3, 1, 1, 1, 1),
        "bias": torch.tensor([0.0, -_ANTERIOR_FROM, -_ANTERIOR_FROM - _POSTERIOR_FROM]),
    }
    config: dict[str, Any] = {
        "network_def": {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 3, "kernel_size": 1},
        "inferer": {"_target_": "SimpleInferer"},
        "prepare": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "Orientationd",
                    "keys": ["image"],
                    "axcodes": "RAS",
                    "labels": [["L", "R"], ["P", "A"], ["I", "S"]],
                }
            ],
        },
        "restore": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Invertd", "keys": "pred", "transform": "@prepare", "orig_keys": "image"},
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            ],
        },
    }
    metadata = {
        "name": f"{protocol.name}-segmentation",
        "version": version,
        "overread": {"protocol": protocol.name, "values": protocol.values},
    }
    return {
        "LICENSE": (Path(__file__).parents[2] / "LICENSE").read_bytes(),
        METADATA: json.dumps(metadata).encode(),
        CONFIG: json.dumps(config).encode(),
        "models/model.pt": b"served from safetensors",
        WEIGHTS: safetensors.torch.save(weights),
        "docs/README.md": b"# Two levels\n",
    }
