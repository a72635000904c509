"""A detection's configuration and weights and an image in, scored boxes in the patient, on the image's own axes, out.

`detection_config` is a bundle's `configs/inference.json`: MONAI alone reads it and writes the same boxes as JSON.
"""

import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor

from labeling_protocols.channels import Images, channels_of
from training.bundle_run import members_of, network_with_weights
from training.detection_boxes import Finding, boxes_in_patient
from training.detection_network import CANDIDATE_MIN, OPERATING_POINT, detector_config
from training.networks import Config
from training.plan import Plan
from training.preparation import as_tensor, prepare_config
from training.prepared_images import PreparedImages, digest_of
from training.stopping import Stopped, go_on, never

_FINDING_BYTES = 512  # about, as kept in memory


def detection_config(plan: Plan, members: int = 1, operating_point: float = OPERATING_POINT) -> Config:
    """What `python -m monai.bundle run` does with a detection, and what `Detector` takes its parts from.

    `members` networks answer together. Given `dataset_dir` and `output_dir` it writes for every volume in the first a
    JSON file to the second, with the findings that are as certain as the `operating_point` or more, most certain first.
    Centres are in millimetres in LPS, sizes in millimetres along the image's own axes.
    """
    return {
        "imports": ["$import json", "$import pathlib", "$import numpy", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/input'",
        "output_dir": "$@bundle_root + '/output'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "images": "$sorted(pathlib.Path(@dataset_dir).iterdir())",
        "structures": list(plan.targets),
        "operating_point": operating_point,
        "score_min": "@operating_point",
        **detector_config(plan, members),
        "prepare": prepare_config(plan),
        "load": {"_target_": "LoadImaged", "keys": ["image"], "ensure_channel_first": True},
        **_POSTPROCESSING,
        "weights": "$torch.load(@bundle_root + '/models/model.pt', map_location='cpu', weights_only=True)",
        "initialize": ["$@network.load_state_dict(@weights)", "$@detector.eval()", "@detector_parts"],
        "run": [
            "$torch.set_grad_enabled(False)",
            "$pathlib.Path(@output_dir).mkdir(parents=True, exist_ok=True)",
            "$[@write(path, @detect(@prepare(@load({'image': str(path)}))['image'])) for path in @images]",
        ],
    }


# The words of `boxes_in_patient` for a machine without it. A box's middle lies half a voxel before its coordinates say
# (`detection_boxes.py`); `turn` says how many voxels of the image itself a voxel of the prepared one is, axis by axis.
# MONAI takes the operator @ for a reference.
_POSTPROCESSING: Config = {
    "to_LPS": "$numpy.diag([-1.0, -1.0, 1.0])",
    "own": "$lambda image: numpy.asarray(image.meta['original_affine'], dtype=float)[:3, :3]",
    "turn": "$lambda image: numpy.abs(numpy.linalg.solve(@own(image), image.affine.numpy()[:3, :3])).round(6)",
    "spacing": "$lambda image: numpy.linalg.norm(@own(image), axis=0)",
    "middle": "$lambda box: numpy.append((box[:3] + box[3:]) / 2 - 0.5, 1.0)",
    "centre": "$lambda image, box: @to_LPS.dot(image.affine.numpy().dot(@middle(box))[:3]).tolist()",
    "size": "$lambda image, box: (@spacing(image) * @turn(image).dot(box[3:] - box[:3])).tolist()",
    "detect": "$lambda image: [{'structure': @structures[int(label)], 'score': float(score),"
    " 'centre_mm_LPS': @centre(image, box), 'size_mm_XYZ': @size(image, box)}"
    " for found in @detector([image.as_tensor().to(@device)], use_inferer=True)"
    " for box, label, score in zip(found['boxes'].double().cpu().numpy(), found['labels'].tolist(),"
    " found['labels_scores'].tolist())]",
    "write": "$lambda path, findings: pathlib.Path(@output_dir, path.name + '.json').write_text("
    "json.dumps({'image': path.name, 'operating_point': @operating_point, 'findings': findings}, indent=1))",
}


class Detector:
    """The served half of a detection's configuration with its weights; safe to use from several threads."""

    def __init__(
        self,
        config: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        device: torch.device,
        images: PreparedImages | None = None,
    ) -> None:
        """Raises `BundleError` where the weights are not exactly those of the network: none stays random."""
        parser = ConfigParser({**config, "device": device, "score_min": CANDIDATE_MIN})
        self.operating_point = float(config["operating_point"])
        self.structures: tuple[str, ...] = tuple(config["structures"])
        self._device = device
        self._prepare = parser.get_parsed_content("prepare")
        self._members = members_of(network_with_weights(parser, weights, device))
        self._images = PreparedImages() if images is None else images
        self._own = uuid.uuid4().hex  # another model's findings are kept beside this one's
        self._detector = parser.get_parsed_content("detector").eval()
        parser.get_parsed_content("detector_parts")
        self._lock = threading.Lock()  # MONAI's transforms and detector keep state

    def predict(self, image: Images, *, digest: str | None = None, stopped: Stopped = never) -> tuple[Finding, ...]:
        """Everything that may be something, most certain first: far more than the `operating_point` lets through.

        `digest` names the image's content, where it is known; what was found in an image is kept. Raises
        `InferenceStopped` once nobody waits any more.
        """
        key = (digest or digest_of(image), "findings", self._own)
        return self._images.get(key, lambda: self._found(image, stopped), lambda found: _FINDING_BYTES * len(found))

    def report(self, image: Images, *, digest: str | None = None, stopped: Stopped = never) -> tuple[Finding, ...]:
        """The findings that are as certain as the operating point or more, most certain first."""
        found = self.predict(image, digest=digest, stopped=stopped)
        return tuple(finding for finding in found if finding.score >= self.operating_point)

    def _found(self, image: Images, stopped: Stopped) -> tuple[Finding, ...]:
        with self._lock, torch.inference_mode():
            prepared = self._prepare({"image": as_tensor(image)})["image"]
            with self._watching(stopped):
                (found,) = self._detector([prepared.as_tensor().to(self._device)], use_inferer=True)
        scores, order = torch.sort(found["labels_scores"].cpu(), descending=True, stable=True)
        names = [self.structures[place] for place in found["labels"].cpu()[order].tolist()]
        affine, geometry = prepared.affine.double().numpy(), channels_of(image)[0].geometry
        boxes = boxes_in_patient(names, found["boxes"].cpu()[order], geometry, affine)
        return tuple(Finding(box=box, score=score) for box, score in zip(boxes, scores.tolist(), strict=True))

    @contextmanager
    def _watching(self, stopped: Stopped) -> Iterator[None]:
        """While the block runs, no further window is looked at once nobody waits any more."""
        hooks = [member.register_forward_pre_hook(lambda *_: go_on(stopped)) for member in self._members]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
