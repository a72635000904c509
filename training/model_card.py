"""The files of a bundle: a candidate in; metadata, configuration, weights, model card and its pictures out.

They are a function of the candidate alone: neither the time nor a path enters, so the same candidate gives the same
bytes again.
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from matplotlib.figure import Figure as Picture
from torch import Tensor

from training import report_pictures
from training.bundle import CONFIG, METADATA, PLAN, WEIGHTS
from training.bundle_metadata import intended_use, metadata
from training.candidate import Candidate
from training.card_text import model_card
from training.drawing import png
from training.plan import Plan
from training.report import EvaluationReport
from training.tasks import kit_of
from training.versioning import model_name

__all__ = ["Candidate", "bundle_parts", "inference_config", "intended_use", "metadata", "model_card", "model_name"]

_LICENSE = Path(__file__).parents[1] / "LICENSE"


def bundle_parts(candidate: Candidate) -> dict[str, bytes]:
    """The files of the bundle by name."""
    pictures = _pictures(candidate.report)
    captions = {f"{name}.png": caption for name, (caption, _) in pictures.items()}
    return {
        "LICENSE": _LICENSE.read_bytes(),
        METADATA: _json(metadata(candidate)),
        CONFIG: _json(inference_config(candidate.plan, candidate.members, candidate.validated)),
        PLAN: candidate.plan.as_json().encode(),
        "models/model.pt": _torch_bytes(candidate.weights),
        WEIGHTS: safetensors.torch.save(dict(candidate.weights)),
        "docs/README.md": model_card(candidate, captions).encode(),
        "docs/evaluation.json": candidate.report.as_json().encode(),
        **{f"docs/{name}.png": png(picture) for name, (_, picture) in pictures.items()},
    }


def inference_config(plan: Plan, members: int = 1, validated: str = "") -> dict[str, Any]:
    """What `python -m monai.bundle run inference` does with `configs/inference.json`, by the plan's task."""
    config = kit_of(plan.task).config(plan, members, validated)
    return {**config, "inference": config["run"]}


def _pictures(report: EvaluationReport) -> dict[str, tuple[str, Picture]]:
    """Caption and picture by name."""
    found = {
        "summary": ("All figures, and the worst cases", report_pictures.summary(report)),
        "cases": ("Every case judged on", report_pictures.case_strip(report)),
    }
    if report.subgroups:
        found["subgroups"] = ("By subgroup", report_pictures.subgroup_forest(report, report.principal))
    return found


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _torch_bytes(weights: Mapping[str, Tensor]) -> bytes:
    content = io.BytesIO()
    torch.save({name: weights[name] for name in sorted(weights)}, content)  # the order decides the bytes
    return content.getvalue()
