"""What happens to an image before the network and to its answer after it, as MONAI configuration.

Training and the bundle's `configs/inference.json` build their transforms from the same entries, so a served image meets
the network as the training images did.
"""

from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose

from labeling_protocols.geometry import Volume
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


def as_tensor(volume: Volume) -> MetaTensor:
    """Voxels as MONAI holds them: (1, X, Y, Z) float32 with the affine in RAS."""
    array_XYZ = torch.from_numpy(volume.array_ZYX.astype("float32")).permute(2, 1, 0).contiguous()
    return MetaTensor(array_XYZ[None], affine=torch.from_numpy(volume.geometry.affine_RAS()))


def _normalise(plan: Plan) -> list[Config]:
    if plan.normalisation is Normalisation.ZSCORE:
        return [{"_target_": "NormalizeIntensityd", "keys": ["image"]}]
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


def _compose(*transforms: Config) -> Config:
    return {"_target_": "Compose", "transforms": list(transforms)}
