"""Networks by name: a plan in, the MONAI configuration of its network or the network itself out.

The configuration is what a bundle carries, so the trained network and the served one are built from the same words.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from monai.bundle import ConfigParser

from training.plan import Plan, PlanError

Config = dict[str, Any]

_SWIN_EDGE = 32

# MONAI 1.5's sliding window indexes with a list of slices where torch asks for a tuple; what comes out is the same.
warnings.filterwarnings("ignore", message="Using a non-tuple sequence", category=UserWarning)


def network_config(plan: Plan) -> Config:
    """The `network_def` of this plan; raises `PlanError` for a name that is not in `NETWORKS`."""
    if plan.deep_supervision and plan.network != "DynUNet":
        raise PlanError(
            f"deep_supervision is a way to train a DynUNet, found network {plan.network!r}. Nothing was trained."
        )
    if plan.network not in NETWORKS:
        raise PlanError(
            f"unknown network {plan.network!r}; expected one of {', '.join(NETWORKS)}. Nothing was trained."
        )
    return NETWORKS[plan.network](plan)


def build_network(plan: Plan) -> torch.nn.Module:
    """The plan's network with the random weights of torch's current seed, ready to be trained."""
    network: torch.nn.Module = ConfigParser({"network_def": network_config(plan)}).get_parsed_content("network_def")
    return network


def _dynunet(plan: Plan) -> Config:
    strides = [list(stride) for stride in plan.strides]
    return {
        "_target_": "monai.networks.nets.DynUNet",
        "spatial_dims": 3,
        "in_channels": plan.channels_in,
        "out_channels": plan.channels_out,
        "kernel_size": [3] * len(strides),
        "strides": strides,
        "upsample_kernel_size": strides[1:],
        "filters": list(plan.channels),
        "deep_supervision": plan.deep_supervision,
        "deep_supr_num": max(1, len(strides) - 2),
    }


def _unet(plan: Plan) -> Config:
    return {
        "_target_": "monai.networks.nets.UNet",
        "spatial_dims": 3,
        "in_channels": plan.channels_in,
        "out_channels": plan.channels_out,
        "channels": list(plan.channels),
        "strides": [list(stride) for stride in plan.strides[1:]],
        "num_res_units": 2,
    }


def _segresnet(plan: Plan) -> Config:
    """SegResNet halves every axis between its stages whatever the spacing."""
    return {
        "_target_": "monai.networks.nets.SegResNet",
        "spatial_dims": 3,
        "in_channels": plan.channels_in,
        "out_channels": plan.channels_out,
        "init_filters": plan.channels[0],
        "blocks_down": [1] + [2] * (len(plan.strides) - 1),
        "blocks_up": [1] * (len(plan.strides) - 1),
    }


def _swinunetr(plan: Plan) -> Config:
    """Its edges must be multiples of 32; the width is the plan's first, as a multiple of the attention's heads."""
    wrong = [edge for edge in plan.patch_RAS if edge % _SWIN_EDGE]
    if wrong:
        raise PlanError(
            f"a SwinUNETR needs a patch whose edges are multiples of {_SWIN_EDGE}, found {plan.patch_RAS}; override"
            " patch_RAS. Nothing was trained."
        )
    return {
        "_target_": "monai.networks.nets.SwinUNETR",
        "spatial_dims": 3,
        "in_channels": plan.channels_in,
        "out_channels": plan.channels_out,
        "feature_size": max(12, plan.channels[0] // 12 * 12),
    }


NETWORKS: dict[str, Callable[[Plan], Config]] = {
    "DynUNet": _dynunet,
    "UNet": _unet,
    "SegResNet": _segresnet,
    "SwinUNETR": _swinunetr,
}
