"""The `configs/metadata.json` of a bundle: a candidate in, MONAI's fields and where the model comes from out."""

from typing import Any

import monai
import numpy as np
import torch

from labeling_protocols.protocol import Protocol
from training.candidate import Candidate
from training.plan import ModelTask, Plan

_INTENDED_USE = (
    "{does} on {modality} images as a proposal that a trained person checks. Not a medical device; not to be used for"
    " diagnosis or treatment without approval for that use."
)
_DOES = {
    ModelTask.SEGMENTATION: "Outlines {what}",
    ModelTask.INTERACTIVE: "Outlines {what}, corrected by clicks,",
    ModelTask.DETECTION: "Draws boxes around {what}",
    ModelTask.CLASSIFICATION: "Answers “{what}”",
}


def metadata(candidate: Candidate) -> dict[str, Any]:
    """MONAI's metadata with its mandatory fields, and under `overread` where the model comes from."""
    protocol, snapshot, plan = candidate.protocol, candidate.snapshot, candidate.plan
    figures = {figure.name: figure.value for figure in candidate.report.figures if figure.value is not None}
    return {
        "version": candidate.version,
        "changelog": dict(candidate.changelog) or {candidate.version: f"trained on snapshot {snapshot.digest}"},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"nibabel": "5.0", "pytorch-ignite": "0.4.11"},
        "name": candidate.name,
        "task": f"{plan.task} of {protocol.title}",
        "description": f"{plan.network} for {', '.join(plan.targets)}, trained and gated by Overread.",
        "authors": "the site that signed this bundle",
        "copyright": "the site that signed this bundle",
        "data_source": f"{len(snapshot.training)} cases of snapshot {snapshot.digest}",
        "data_type": "NIfTI, NRRD or DICOM series",
        "image_classes": f"{_channel_words(plan)}, {'/'.join(protocol.modality)}",
        "label_classes": _classes(protocol, plan),
        "pred_classes": _channels(plan),
        "eval_metrics": {name: round(value, 6) for name, value in figures.items()},
        "intended_use": intended_use(protocol, plan),
        "references": [],
        "network_data_format": {"inputs": {"image": _image(protocol, plan)}, "outputs": {"pred": _answer(plan)}},
        "overread": {
            "protocol": protocol.name,
            "protocol_version": protocol.version,
            "protocol_digest": protocol.digest,
            "task": str(plan.task),
            "targets": list(plan.targets),
            "question": plan.question,
            "members": candidate.members,
            "snapshot": snapshot.digest,
            "training_cases": len(snapshot.training),
            "evaluation": candidate.report.digest,
            "change_plan": candidate.change_plan.digest if candidate.change_plan else None,
            "run_id": candidate.run_id,
            "values": protocol.values,
        },
    }


def intended_use(protocol: Protocol, plan: Plan) -> str:
    if plan.task is ModelTask.CLASSIFICATION:
        what = next((one.title for one in protocol.questions if one.name == plan.question), plan.question)
    else:
        titles = {structure.name: structure.title.lower() for structure in protocol.structures}
        what = ", ".join(titles.get(name, name) for name in plan.targets)
    return _INTENDED_USE.format(does=_DOES[plan.task].format(what=what), modality="/".join(protocol.modality))


def _classes(protocol: Protocol, plan: Plan) -> dict[str, str]:
    """What truths are made of: voxel values and their structures, or the answers to the question."""
    if plan.task is ModelTask.CLASSIFICATION:
        return dict(_channels(plan))
    return {str(structure.value): structure.name for structure in protocol.structures if structure.name in plan.targets}


def _channels(plan: Plan) -> dict[str, str]:
    """What each channel, or class, of an answer means."""
    outlines = plan.task in (ModelTask.SEGMENTATION, ModelTask.INTERACTIVE)
    names = ["background", *plan.targets] if outlines else list(plan.targets)
    return {str(channel): name for channel, name in enumerate(names)}


def _channel_words(plan: Plan) -> str:
    return f"{len(plan.inputs)} channels, {' and '.join(plan.inputs)} on one grid" if plan.inputs else "one channel"


def _image(protocol: Protocol, plan: Plan) -> dict[str, Any]:
    return {
        "type": "image",
        "format": "hounsfield" if "CT" in protocol.modality else "magnitude",
        "modality": "/".join(protocol.modality),
        "num_channels": plan.channels_in,
        "spatial_shape": list(plan.patch_RAS),
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": plan.task is not ModelTask.CLASSIFICATION,
        "channel_def": {str(number): name for number, name in enumerate(plan.inputs or ("image",))},
    }


def _answer(plan: Plan) -> dict[str, Any]:
    """What comes out, as MONAI's metadata schema (20240725) names it."""
    channels = _channels(plan)
    common = {"num_channels": len(channels), "channel_def": channels, "value_range": []}
    if plan.task is ModelTask.DETECTION:
        return {**common, "type": "object", "format": "dict", "dtype": "dictionary", "is_patch_data": False}
    if plan.task is ModelTask.CLASSIFICATION:
        shape = {"spatial_shape": [1, len(channels)], "dtype": "float32", "is_patch_data": False}
        return {**common, **shape, "type": "probabilities", "format": "classification", "value_range": [0, 1]}
    patch = {"spatial_shape": list(plan.patch_RAS), "dtype": "float32", "is_patch_data": True}
    return {**common, **patch, "type": "image", "format": "segmentation"}
