"""What the `configs/inference.json` of every task says alike: a network and its parts in, MONAI configuration out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor

from training.bundle import BundleError

Config = dict[str, Any]


def run_config(
    *,
    network: Config,
    prepare: Config,
    inferer: Config,
    postprocessing: Sequence[str | Config],
    members: int = 1,
    **evaluator: Any,
) -> Config:
    """What `python -m monai.bundle run` does, with MONAI alone.

    Given `dataset_dir` and `output_dir` it puts every volume of the first through `prepare`, the network and
    `postprocessing`, whose last step writes to the second. `evaluator` are further arguments of MONAI's. Of several
    `members`, networks of one kind that answer together, postprocessing takes the mean of the probabilities; of one,
    its scores.
    """
    names = [f"pred_{member}" for member in range(members)]
    joined: list[Config] = [
        {"_target_": "Activationsd", "keys": names, "softmax": True},
        {"_target_": "MeanEnsembled", "keys": names, "output_key": "pred"},
    ]
    one: Config = {"_target_": "SupervisedEvaluator", "network": "@network"}
    all_: Config = {"_target_": "EnsembleEvaluator", "networks": "$list(@network)", "pred_keys": names}
    return {
        "imports": ["$import pathlib", "$import numpy", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/input'",
        "output_dir": "$@bundle_root + '/output'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "images": "$sorted(str(path) for path in pathlib.Path(@dataset_dir).iterdir())",
        "network_def": network if members == 1 else {"_target_": "torch.nn.ModuleList", "modules": [network] * members},
        "network": "$@network_def.to(@device)",
        "prepare": prepare,
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
        "inferer": inferer,
        "postprocessing": {"_target_": "Compose", "transforms": [*(joined if members > 1 else []), *postprocessing]},
        "evaluator": {
            **(one if members == 1 else all_),
            "device": "@device",
            "val_data_loader": "@dataloader",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            **evaluator,
        },
        "weights": "$torch.load(@bundle_root + '/models/model.pt', map_location='cpu', weights_only=True)",
        "initialize": ["$@network.load_state_dict(@weights)"],
        "run": ["$@evaluator.run()"],
    }


def network_with_weights(parser: ConfigParser, weights: Mapping[str, Tensor], device: torch.device) -> torch.nn.Module:
    """The configured network, ready to answer; raises `BundleError` where the weights are not exactly its own."""
    network: torch.nn.Module = parser.get_parsed_content("network_def")
    try:
        network.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise BundleError(
            f"the weights are not those of the configured network: {error}. Nothing is served."
        ) from error
    return network.to(device).eval()


def members_of(network: torch.nn.Module) -> list[torch.nn.Module]:
    """The networks that answer together, or the only one."""
    return list(network) if isinstance(network, torch.nn.ModuleList) else [network]


def joint_scores(members: Sequence[torch.nn.Module], ask: Callable[[torch.nn.Module], Tensor]) -> Tensor:
    """What `ask` has of the only network; of several the mean of their probabilities, channels being the first axis."""
    if len(members) == 1:
        return ask(members[0])
    return torch.stack([ask(member).softmax(dim=0) for member in members]).mean(dim=0)
