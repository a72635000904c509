"""Networks that answer for a whole case, by name: a plan in, the MONAI configuration of its network out.

They have group norm (Wu & He 2018, arXiv 1803.08494), which does not depend on what else is in the batch: volumes come
two or so at a time.
"""

import math
from collections.abc import Callable
from typing import Any

from training.plan import Plan, PlanError

Config = dict[str, Any]

_GROUPS_MAX = 8
_DENSE_EDGE_MIN = 16  # voxels: the network halves four times


def classification_network_config(plan: Plan) -> Config:
    """The `network_def` of this plan: one score for each target. Raises `PlanError` for what cannot be."""
    if plan.network not in CLASSIFICATION_NETWORKS:
        raise PlanError(
            f"unknown network {plan.network!r} for a classification; expected one of"
            f" {', '.join(CLASSIFICATION_NETWORKS)}. Nothing was trained."
        )
    return CLASSIFICATION_NETWORKS[plan.network](plan)


def _encoder(plan: Plan) -> Config:
    """The residual encoder of the plan's U-Net, which divides axes as the plan does, and a layer over all it found.

    MONAI's own ResNet cannot be had: in MONAI 1.5 its blocks keep batch norm whatever norm is asked for.
    """
    return {
        "_target_": "monai.networks.nets.Classifier",
        "in_shape": [1, *plan.patch_RAS],
        "classes": len(plan.targets),
        "channels": list(plan.channels),
        "strides": [list(stride) for stride in plan.strides],
        "num_res_units": 2,
        "norm": ["group", {"num_groups": math.gcd(_GROUPS_MAX, *plan.channels)}],
        "dropout": 0.0,
    }


def _densenet(plan: Plan) -> Config:
    """A short DenseNet (Huang et al. 2017), which averages what it found over the volume."""
    if min(plan.patch_RAS) < _DENSE_EDGE_MIN:
        raise PlanError(
            f"a DenseNet needs {_DENSE_EDGE_MIN} voxels along each axis, found patch_RAS {plan.patch_RAS}."
            " Nothing was trained."
        )
    growth = plan.channels[0]
    before_last = 11 * growth // 2  # channels between the second block and the third; all others are multiples
    return {
        "_target_": "monai.networks.nets.DenseNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": len(plan.targets),
        "init_features": 2 * growth,
        "growth_rate": growth,
        "block_config": [4, 8, 8],
        "norm": ["group", {"num_groups": math.gcd(_GROUPS_MAX, growth, before_last)}],
    }


CLASSIFICATION_NETWORKS: dict[str, Callable[[Plan], Config]] = {"DenseNet": _densenet, "Classifier": _encoder}
