"""What goes into a model and what comes out, in MLflow's words: a plan in, an `MLmodel` file without any code out.

The file names the signed bundle and has a flavour of its own, so that MLflow shows shapes and types and can load or
serve nothing by itself: only a verified bundle is ever loaded.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from mlflow.models import Model, ModelSignature
from mlflow.types.schema import Schema, TensorSpec

from training.plan import ModelTask, Plan

FLAVOUR = "overread_bundle"
_ANY = -1
_VOLUME = (_ANY, _ANY, _ANY)  # voxels along R, A and S, at the plan's spacing
_FLOAT, _INTEGER = np.dtype("float32"), np.dtype("int64")


def signature_of(plan: Plan) -> ModelSignature:
    """Tensors of the network: first axis the batch (boxes of a detection: one row a box, corners in voxels), then
    channels.
    """
    # Of an interactive model the image, and a channel for each kind of click.
    channels_in = _ANY if plan.task is ModelTask.INTERACTIVE else plan.channels_in
    image = TensorSpec(_FLOAT, (_ANY, channels_in, *_VOLUME), name="image")
    return ModelSignature(inputs=Schema([image]), outputs=Schema(_answers(plan)))


def write_model_file(plan: Plan, path: Path, *, run_id: str, model_id: str, facts: Mapping[str, str]) -> None:
    """Write `MLmodel`; `facts` (such as version and `bundle_sha256`) say which bundle it is about."""
    model = Model(run_id=run_id, model_id=model_id, model_uuid=model_id, signature=signature_of(plan))
    model.metadata = {
        **facts,
        "targets": list(plan.targets),
        "spacing_mm_RAS": list(plan.spacing_mm_RAS),
        "patch_RAS": list(plan.patch_RAS),
    }
    model.add_flavor(FLAVOUR, task=str(plan.task), network=plan.network, **facts)
    model.save(str(path))


def _answers(plan: Plan) -> list[TensorSpec]:
    match plan.task:
        case ModelTask.SEGMENTATION | ModelTask.INTERACTIVE:
            return [TensorSpec(_FLOAT, (_ANY, plan.channels_out, *_VOLUME), name="scores")]
        case ModelTask.DETECTION:
            return [
                TensorSpec(_FLOAT, (_ANY, 6), name="boxes"),
                TensorSpec(_FLOAT, (_ANY,), name="scores"),
                TensorSpec(_INTEGER, (_ANY,), name="labels"),
            ]
        case ModelTask.CLASSIFICATION:
            return [TensorSpec(_FLOAT, (_ANY, len(plan.targets)), name="scores")]
