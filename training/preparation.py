"""What happens to an image before the network and to its answer after it, as MONAI configuration.

Training and the bundle's `configs/inference.json` build their transforms from the same entries, so a served image meets
the network as the training images did.
"""

from collections.abc import Mapping
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose

from labeling_protocols.channels import ChannelsError, Images, channels_of
from training.plan import Normalisation, Plan

Config = dict[str, Any]


def prepare_config(plan: Plan, *, with_label: bool = False) -> Config:
    """Turn to RAS, resample to the plan's spacing, normalise; keys `image` and, for training, `label`."""
    keys = ["image", "label"] if with_label else ["image"]
    modes = ["bilinear", "nearest"] if with_label else ["bilinear"]
    return _compose(
        {
            "_target_": "Orientationd",
            "keys": keys,
            "axcodes": "RAS",
            "labels": [["L", "R"], ["P", "A"], ["I", "S"]],
        },
        {"_target_": "Spacingd", "keys": keys, "pixdim": list(plan.spacing_mm_RAS), "mode": modes},
        *_normalise(plan),
    )


def restore_config(plan: Plan) -> list[Config]:
    """Bring the network's answer back to the image's own grid, then choose each voxel's class: entries of a Compose.

    Scores are interpolated before the choice, which keeps borders smooth where a resampled label would be stepped.
    """
    return [
        {
            "_target_": "Invertd",
            "keys": "pred",
            "transform": "@prepare",
            "orig_keys": "image",
            "nearest_interp": False,
            "to_tensor": True,
        },
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
        {
            "_target_": "MapLabelValued",
            "keys": "pred",
            "orig_labels": list(range(len(plan.values))),
            "target_labels": list(plan.values),
            "dtype": "$numpy.uint8",
        },
    ]


def preparation(plan: Plan) -> Compose:
    """The transforms that make a training example of an image with its label."""
    return ConfigParser({"prepare": prepare_config(plan, with_label=True)}).get_parsed_content("prepare")


def as_tensor(images: Images) -> MetaTensor:
    """Voxels as MONAI holds them: (C, X, Y, Z) float32, an image or its channels, with the first's affine in RAS."""
    channels = channels_of(images)
    arrays_XYZ = [torch.from_numpy(one.array_ZYX.astype("float32")).permute(2, 1, 0) for one in channels]
    return MetaTensor(torch.stack(arrays_XYZ).contiguous(), affine=torch.from_numpy(channels[0].geometry.affine_RAS()))


def require_inputs(config: Mapping[str, Any], images: Images) -> None:
    """Raise `ChannelsError` where a bundle's network is shown another number of images than these."""
    network = config["network_def"]
    expected = network.get("modules", [network])[0].get("in_channels")
    found = len(channels_of(images))
    if expected is not None and expected != found:
        raise ChannelsError(
            f"found {found} image(s); the model is shown {expected} of one grid together. Nothing was predicted."
        )


def channel_files(plan: Plan) -> Config:
    """How a bundle's configuration finds the channels of an image, where there are several.

    They are files NAME_0000, NAME_0001 and on, in the plan's order, or one file with a fourth axis.
    """
    if plan.channels_in == 1:
        return {}
    cases = (
        "itertools.groupby(sorted(pathlib.Path(@dataset_dir).iterdir()),"
        " key=lambda path: re.sub(r'_[0-9]{4}(?=[.])', '', path.name))"
    )
    return {
        "imports": ["$import itertools", "$import pathlib", "$import re", "$import numpy", "$import torch"],
        "images": f"$[paths if len(paths) > 1 else paths[0] for paths in [[str(p) for p in of] for _, of in {cases}]]",
    }


def _normalise(plan: Plan) -> list[Config]:
    """Each channel by itself."""
    if plan.normalisation is Normalisation.ZSCORE:
        each = {"channel_wise": True} if plan.channels_in > 1 else {}
        return [{"_target_": "NormalizeIntensityd", "keys": ["image"], **each}]
    if plan.channels_in > 1:
        return _clip_and_scale_each(plan)
    clip = {"a_min": plan.intensity_low, "a_max": plan.intensity_high}
    return [
        {
            "_target_": "ScaleIntensityRanged",
            "keys": ["image"],
            **clip,
            "b_min": (plan.intensity_low - plan.intensity_mean) / plan.intensity_std,
            "b_max": (plan.intensity_high - plan.intensity_mean) / plan.intensity_std,
            "clip": True,
        }
    ]


def _clip_and_scale_each(plan: Plan) -> list[Config]:
    """What is done to one channel below, by figures of each; MONAI clips all channels alike, or by percentiles."""
    first = (plan.intensity_mean, plan.intensity_std, plan.intensity_low, plan.intensity_high)
    means, deviations, lows, highs = (list(of) for of in zip(first, *plan.further_intensities, strict=True))
    bounds = [f"torch.tensor({of}).reshape(-1, 1, 1, 1)" for of in (lows, highs)]
    return [
        {"_target_": "Lambdad", "keys": ["image"], "func": f"$lambda image: image.clamp({bounds[0]}, {bounds[1]})"},
        {
            "_target_": "NormalizeIntensityd",
            "keys": ["image"],
            "subtrahend": means,
            "divisor": deviations,
            "channel_wise": True,
        },
    ]


def _compose(*transforms: Config) -> Config:
    return {"_target_": "Compose", "transforms": list(transforms)}
