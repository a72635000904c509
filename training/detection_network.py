"""A detection's plan in, the MONAI configuration of its RetinaNet, anchors and detector, or these themselves, out.

The bundle carries the same configuration. MONAI's own ResNet with a feature pyramid is not used: it normalises over the
batch, has 256 channels whatever the task, and needs torchvision, of which no CPU build fits every torch. The decoder of
a DynUNet is a feature pyramid too; its finest map carries the anchors of all sizes.
"""

import math

import torch
from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
from monai.apps.detection.utils.anchor_utils import AnchorGeneratorWithAnchorShape
from monai.bundle import ConfigParser

from training.detection_plan import NETWORK
from training.networks import Config
from training.plan import Plan, PlanError

OPERATING_POINT = 0.3  # score from which on a finding is shown where nobody chose one on validation cases
CANDIDATE_MIN = 0.02  # score below which a box is not even kept for a FROC curve
OVERLAP_MAX = 0.2  # IoU of two boxes of one structure; lesions lie beside each other, not in each other
FOUND_MAX = 100  # boxes an image, as in nnDetection's and COCO's evaluation
_CANDIDATES_MAX = 2000  # boxes that enter the suppression of overlaps
_SELECTION = {"topk_candidates_per_level": _CANDIDATES_MAX, "nms_thresh": OVERLAP_MAX, "detections_per_img": FOUND_MAX}
_GROUPS = 8  # MONAI's heads normalise their features in so many groups

_MONAI = "monai.apps.detection"


def network_config(plan: Plan) -> Config:
    """The `network_def` of a detection; raises `PlanError` where the plan is no detection's."""
    if plan.network != NETWORK or not plan.anchors_mm:
        raise PlanError(
            f"a detection needs the network {NETWORK} and anchors_mm, found {plan.network} and {len(plan.anchors_mm)}"
            " anchor(s). Nothing was trained."
        )
    strides = [list(stride) for stride in plan.strides]
    return {
        "_target_": f"{_MONAI}.networks.retinanet_network.RetinaNet",
        "spatial_dims": 3,
        "num_classes": len(plan.targets),
        "num_anchors": len(plan.anchors_mm),
        "feature_extractor": {
            "_target_": "monai.networks.nets.DynUNet",
            "spatial_dims": 3,
            "in_channels": 1,
            "out_channels": math.ceil(plan.channels[1] / _GROUPS) * _GROUPS,
            # A first stride of 4 must see every voxel.
            "kernel_size": [[max(3, 2 * n - 1) for n in strides[0]], *[[3, 3, 3]] * (len(strides) - 1)],
            "strides": strides,
            "upsample_kernel_size": strides[1:],
            "filters": list(plan.channels),
        },
        "size_divisible": size_divisible(plan),
    }


def detector_config(plan: Plan, members: int = 1) -> Config:
    """Entries of a configuration that expects two others, `device` and `score_min`, beside them.

    `score_min` is the score below which no box is given. `members` networks answer together, by the mean of their maps:
    they stand on the same anchors. `detector_parts` sets the detector up, which MONAI takes through methods only.
    """
    network: Config = network_config(plan)
    together: Config = {"network": "@network"}
    if members > 1:
        network = {"_target_": "torch.nn.ModuleList", "modules": [network] * members}
        together = {
            "network": "$lambda images: [sum(maps) / len(maps) for maps in zip(*([*answer['classification'],"
            " *answer['box_regression']] for answer in (member(images) for member in @network)))]",
            "spatial_dims": 3,
            "num_classes": len(plan.targets),
            "size_divisible": size_divisible(plan),
        }
    return {
        "network_def": network,
        "network": "$@network_def.to(@device)",
        "anchor_generator": {
            "_target_": f"{_MONAI}.utils.anchor_utils.AnchorGeneratorWithAnchorShape",
            "feature_map_scales": [1],
            "base_anchor_shapes": anchors_voxels(plan),
        },
        "detector": {
            "_target_": f"{_MONAI}.networks.retinanet_detector.RetinaNetDetector",
            **together,
            "anchor_generator": "@anchor_generator",
        },
        "selection": {**_SELECTION, "score_thresh": "@score_min"},
        "windows": _windows(plan),
        "detector_parts": [
            "$@detector.set_box_selector_parameters(**@selection)",
            "$@detector.set_sliding_window_inferer(**@windows)",
        ],
    }


def build_network(plan: Plan) -> torch.nn.Module:
    """The plan's network with the random weights of torch's current seed."""
    network: torch.nn.Module = ConfigParser({"network_def": network_config(plan)}).get_parsed_content("network_def")
    return network


def detector_around(plan: Plan, network: torch.nn.Module) -> RetinaNetDetector:
    """A detector of its own around a network that others may use at the same time: MONAI's keeps anchors on itself."""
    anchors = AnchorGeneratorWithAnchorShape(feature_map_scales=[1], base_anchor_shapes=anchors_voxels(plan))
    detector = RetinaNetDetector(network, anchors)
    detector.set_box_selector_parameters(score_thresh=CANDIDATE_MIN, **_SELECTION)
    detector.set_sliding_window_inferer(**_windows(plan))
    return detector


def size_divisible(plan: Plan) -> list[int]:
    """What an image's edges must be multiples of, for the network and so that windows meet on the feature map.

    MONAI's windows pad a small image on both sides: half of it must be whole on the feature map too.
    """
    return [math.lcm(math.prod(steps), 2 * steps[0]) for steps in zip(*plan.strides, strict=True)]


def anchors_voxels(plan: Plan) -> list[list[int]]:
    """The anchors' edges in voxels, even: MONAI rounds half an edge to whole voxels, and so some to 0."""
    return [
        [2 * max(1, round(mm / spacing / 2)) for mm, spacing in zip(anchor, plan.spacing_mm_RAS, strict=True)]
        for anchor in plan.anchors_mm
    ]


def _windows(plan: Plan) -> Config:
    return {"roi_size": list(plan.patch_RAS), "sw_batch_size": 2, "overlap": _overlap(plan), "mode": "gaussian"}


def _overlap(plan: Plan) -> list[float]:
    """The plan's overlap along each axis, so that windows begin at multiples of what the network divides by."""
    overlaps = []
    for edge, step in zip(plan.patch_RAS, size_divisible(plan), strict=True):
        interval = max(step, math.floor(edge * (1 - plan.window_overlap) / step) * step)
        overlaps.append(max(0.0, 1 - (interval + 0.01) / edge))  # MONAI cuts the interval down to whole voxels
    return overlaps
