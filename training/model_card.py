"""The words of a bundle: plan, snapshot, evaluation and decision in; metadata, configuration and model card out."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import monai
import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from labeling_protocols.protocol import Protocol
from training.bundle import CONFIG, METADATA, WEIGHTS
from training.evaluation import Evaluation
from training.gate import Decision
from training.networks import network_config
from training.plan import Plan
from training.preparation import prepare_config, restore_config
from training.snapshot import Snapshot

_LICENSE = Path(__file__).parents[1] / "LICENSE"
_INTENDED_USE = (
    "Outlines {structures} on {modality} images as a proposal that a trained person checks. Not a medical device;"
    " not to be used for diagnosis or treatment without approval for that use."
)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A trained model with everything a bundle says about it."""

    protocol: Protocol
    snapshot: Snapshot
    plan: Plan
    run_id: str
    version: str
    weights: Mapping[str, Tensor]
    evaluation: Evaluation
    decision: Decision

    @property
    def name(self) -> str:
        return model_name(self.protocol.name)


def model_name(protocol: str) -> str:
    """The registered model of a protocol."""
    return f"{protocol}-segmentation"


def bundle_parts(candidate: Candidate) -> dict[str, bytes]:
    """The files of the bundle by name, as a function of the candidate alone."""
    return {
        "LICENSE": _LICENSE.read_bytes(),
        METADATA: _json(metadata(candidate)),
        CONFIG: _json(inference_config(candidate.plan)),
        "configs/plan.json": candidate.plan.as_json().encode(),
        "models/model.pt": _torch_bytes(candidate.weights),
        WEIGHTS: safetensors.torch.save(dict(candidate.weights)),
        "docs/README.md": model_card(candidate).encode(),
    }


def inference_config(plan: Plan) -> dict[str, Any]:
    """What `python -m monai.bundle run` does with `configs/inference.json`, and what `Predictor` takes its parts from.

    Given `dataset_dir` and `output_dir` it labels every volume in the first and writes the labels to the second.
    """
    return {
        "imports": ["$import pathlib", "$import numpy", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/input'",
        "output_dir": "$@bundle_root + '/output'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "images": "$sorted(str(path) for path in pathlib.Path(@dataset_dir).iterdir())",
        "network_def": network_config(plan),
        "network": "$@network_def.to(@device)",
        "prepare": prepare_config(plan),
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [{"_target_": "LoadImaged", "keys": ["image"], "ensure_channel_first": True}, "@prepare"],
        },
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': path} for path in @images]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(plan.patch_RAS),
            "sw_batch_size": 1,
            "overlap": plan.window_overlap,
            "mode": "gaussian",
        },
        "restore": {"_target_": "Compose", "transforms": restore_config(plan)},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                "@restore",
                {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "output_dtype": "$numpy.uint8"},
            ],
        },
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "weights": "$torch.load(@bundle_root + '/models/model.pt', map_location='cpu', weights_only=True)",
        "initialize": ["$@network.load_state_dict(@weights)"],
        "run": ["$@evaluator.run()"],
    }


def metadata(candidate: Candidate) -> dict[str, Any]:
    """MONAI's metadata with its mandatory fields, and under `overread` where the model comes from."""
    protocol, snapshot, plan = candidate.protocol, candidate.snapshot, candidate.plan
    titles = {"0": "background", **{str(i): s.name for i, s in enumerate(protocol.outlined, start=1)}}
    patch = list(plan.patch_RAS)
    image = {"type": "image", "format": "magnitude", "modality": "/".join(protocol.modality), "num_channels": 1}
    return {
        "version": candidate.version,
        "changelog": {candidate.version: f"trained on snapshot {snapshot.digest}"},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"nibabel": "5.0", "pytorch-ignite": "0.4.11"},
        "name": candidate.name,
        "task": f"segmentation of {protocol.title}",
        "description": f"{plan.network} that outlines {', '.join(protocol.values)}, trained and gated by Overread.",
        "authors": "the site that signed this bundle",
        "copyright": "the site that signed this bundle",
        "data_source": f"{len(snapshot.training)} cases of snapshot {snapshot.digest}",
        "data_type": "NIfTI, NRRD or DICOM series",
        "image_classes": f"one channel, {'/'.join(protocol.modality)}",
        "label_classes": {str(value): name for name, value in protocol.values.items()},
        "pred_classes": titles,
        "eval_metrics": {"mean_dice": round(candidate.evaluation.dice_mean, 6)},
        "intended_use": intended_use(protocol),
        "references": [],
        "network_data_format": {
            "inputs": {
                "image": {
                    **image,
                    "spatial_shape": patch,
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": True,
                    "channel_def": {"0": "image"},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "segmentation",
                    "num_channels": len(plan.values),
                    "spatial_shape": patch,
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": True,
                    "channel_def": titles,
                }
            },
        },
        "overread": {
            "protocol": protocol.name,
            "protocol_version": protocol.version,
            "protocol_digest": protocol.digest,
            "snapshot": snapshot.digest,
            "run_id": candidate.run_id,
            "values": protocol.values,
        },
    }


def intended_use(protocol: Protocol) -> str:
    structures = ", ".join(structure.title.lower() for structure in protocol.outlined)
    return _INTENDED_USE.format(structures=structures, modality="/".join(protocol.modality))


def model_card(candidate: Candidate) -> str:
    """Markdown for whoever decides whether to use the model."""
    snapshot, evaluation, decision = candidate.snapshot, candidate.evaluation, candidate.decision
    rows = "\n".join(
        f"| {name} | {dice:.3f} | {_mm(evaluation.hd95_median_mm[name])} |" for name, dice in evaluation.dice.items()
    )
    verdict = "passed" if decision.passed else "not passed: " + "; ".join(decision.reasons)
    adjudicated = sum(case.adjudication is not None for case in snapshot.cases)
    return f"""# {candidate.name} {candidate.version}

{intended_use(candidate.protocol)}

## Data
{len(snapshot.training)} training and {len(snapshot.held_out)} held-out cases, split by patient; {adjudicated} of the
{len(snapshot.cases)} truths were adjudicated, the others are consensus. Snapshot `{snapshot.digest}`, protocol
{snapshot.protocol} version {snapshot.protocol_version}.

## Figures on the held-out cases
| Structure | Dice | HD95, median |
|---|---|---|
{rows}

Mean Dice {evaluation.dice_mean:.3f} over {len(evaluation.cases)} case(s); {evaluation.missed} structure(s) missed,
{evaluation.invented} invented. A miss counts as Dice 0. Gate: {verdict}.

## Limits
Trained on one site's images only; not examined for subgroups, other scanners or other protocols. The terms under which
the training images were given also bind these weights.

## Origin
MLflow run `{candidate.run_id}`, {candidate.plan.network}, {candidate.plan.epochs} epochs, seed {candidate.plan.seed}.

## Use
`python -m monai.bundle run --config_file configs/inference.json --bundle_root . --dataset_dir IN --output_dir OUT`
"""


def _mm(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} mm"


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _torch_bytes(weights: Mapping[str, Tensor]) -> bytes:
    content = io.BytesIO()
    torch.save({name: weights[name] for name in sorted(weights)}, content)  # the order decides the bytes
    return content.getvalue()
