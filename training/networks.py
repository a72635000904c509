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

# MONAI 1.5's sliding window indexes with a list of slices where torch asks for a tuple; what comes out is the same.
warnings.filterwarnings("ignore", message="Using a non-tuple sequence", category=UserWarning)


def network_config(plan: Plan) -> Config:
    """The `network_def` of this plan; raises `PlanError` for a name that is not in `NETWORKS`."""
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
        "in_channels": 1,
        "out_channels": len(plan.values),
        "kernel_size": [3] * len(strides),
        "strides": strides,
        "upsample_kernel_size": strides[1:],
        "filters": list(plan.channels),
    }


def _unet(plan: Plan) -> Config:
    return {
        "_target_": "monai.networks.nets.UNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": len(plan.values),
        "channels": list(plan.channels),
        "strides": [list(stride) for stride in plan.strides[1:]],
        "num_res_units": 2,
    }


def _segresnet(plan: Plan) -> Config:
    """SegResNet halves every axis between its stages whatever the spacing."""
    return {
        "_target_": "monai.networks.nets.SegResNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": len(plan.values),
        "init_filters": plan.channels[0],
        "blocks_down": [1] + [2] * (len(plan.strides) - 1),
        "blocks_up": [1] * (len(plan.strides) - 1),
    }


NETWORKS: dict[str, Callable[[Plan], Config]] = {"DynUNet": _dynunet, "UNet": _unet, "SegResNet": _segresnet}
