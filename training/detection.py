"""Detection for the training loop: images and boxes in, the loss of a RetinaNet, and how well it finds boxes, out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
from monai.bundle import ConfigParser
from monai.losses import FocalLoss
from torch import Tensor

from labeling_protocols.geometry import Volume
from labeling_protocols.label import Label
from training.detection_boxes import boxes_in_voxels, true_boxes
from training.detection_network import build_network, detector_around
from training.detection_patches import BoxBank, Boxes, Example
from training.froc import Hit, average_precisions, hits_of, ranked
from training.learner import autocast
from training.plan import Plan
from training.preparation import as_tensor, prepare_config

_CANDIDATES = 4  # places around a box, on the feature map, whose anchors may become its own (ATSS, Zhang et al. 2020)
_FOCUS = 2.0  # γ and α of the focal loss (Lin et al. 2017)
_BALANCE = 0.25
_BOX_LOSS_BEND = 1 / 9  # where the smooth L1 loss of a box's place and size turns from a parabola to a line
_LOOK = Hit(iou_min=0.1)  # what counts as found while training


class DetectionLearner:
    """Learns boxes around the plan's targets."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._prepare = ConfigParser({"prepare": prepare_config(plan)}).get_parsed_content("prepare")

    def network(self) -> torch.nn.Module:
        return build_network(self._plan)

    def prepare(self, case: str, image: Volume, label: Label) -> Example:
        """The case's true boxes, and those of what is outlined and not boxed, on the prepared grid."""
        prepared = self._prepare({"image": as_tensor(image)})["image"]
        targets = self._plan.targets
        boxes = true_boxes(label, dict(zip(targets, self._plan.values, strict=True)))
        return Example(
            case=case,
            image=prepared.as_tensor().float().contiguous(),
            boxes=boxes_in_voxels(boxes, image.geometry, prepared.affine.double().numpy()),
            classes=torch.tensor([targets.index(box.structure) for box in boxes], dtype=torch.int64),
        )

    def load(self, examples: Sequence[Example], device: torch.device) -> None:
        self._bank = BoxBank(self._plan, examples, device)

    def loss(self, network: torch.nn.Module, places: Sequence[int], seeds: Sequence[int]) -> Tensor:
        """Focal loss of each anchor's structure, and smooth L1 loss of the place and size of those that have a box."""
        images, boxes = self._bank.patches(places, seeds)
        with autocast(self._plan, images.device):
            maps = network(images.contiguous(memory_format=torch.channels_last_3d))
        answers = {name: [level.float() for level in levels] for name, levels in maps.items()}
        return torch.stack(_losses(_criteria(self._plan, network), images, answers, boxes)).mean()

    @torch.inference_mode()
    def figures(self, network: torch.nn.Module, example: Example) -> dict[str, float]:
        """Average precision by structure on this image; where there is none of it, 1 less the highest score given."""
        device = next(network.parameters()).device
        detector = detector_around(self._plan, network).eval()
        with autocast(self._plan, device):
            (found,) = detector([example.image.to(device)], use_inferer=True)
        scores, labels = found["labels_scores"].float().cpu(), found["labels"].cpu()
        boxes = found["boxes"].float().cpu()
        figures = {}
        for place, name in enumerate(self._plan.targets):
            of_it = labels == place
            figures[f"ap/{name}"] = _look(
                boxes[of_it].numpy(), scores[of_it].numpy(), example.boxes[example.classes == place].numpy()
            )
        return figures


def _criteria(plan: Plan, network: torch.nn.Module) -> RetinaNetDetector:
    detector = detector_around(plan, network)
    detector.set_atss_matcher(num_candidates=_CANDIDATES, center_in_gt=False)
    # MONAI's "sum" is a mean where there are no spatial axes; the loss is added up here.
    detector.set_cls_loss(FocalLoss(gamma=_FOCUS, alpha=_BALANCE, reduction="none"))
    detector.set_box_regression_loss(
        torch.nn.SmoothL1Loss(beta=_BOX_LOSS_BEND, reduction="sum"), encode_gt=True, decode_pred=False
    )
    return detector


def _losses(
    detector: RetinaNetDetector, images: Tensor, maps: dict[str, list[Tensor]], boxes: Sequence[Boxes]
) -> list[Tensor]:
    """The loss of each patch by itself, a mean over the anchors that have a box; so no patch depends on its batch.

    MONAI's `compute_loss` takes a batch for one, draws from torch's global generator, and asks torchvision for a class.
    """
    detector.generate_anchors(images, maps)
    anchors = detector.anchors[0]
    scores, shapes = (detector._reshape_maps(maps[name]) for name in (detector.cls_key, detector.box_reg_key))
    losses = []
    for place, true in enumerate(boxes):
        matched = _matched(detector, true, anchors, maps)
        target = [{detector.target_box_key: true.boxes, detector.target_label_key: true.classes}]
        wrong = detector.compute_cls_loss(scores[place, None], target, [matched]).sum()
        off = detector.compute_box_loss(shapes[place, None], target, [anchors], [matched])
        losses.append((wrong + off.to(wrong.device)) / max(1, int((matched >= 0).sum())))
    return losses


def _matched(detector: RetinaNetDetector, true: Boxes, anchors: Tensor, maps: dict[str, list[Tensor]]) -> Tensor:
    """Which box each anchor is for, (anchors,); negative where it is background."""
    if not len(true.boxes):
        return torch.full((len(anchors),), -1, dtype=torch.int64, device=anchors.device)
    locations = [level.shape[2:].numel() for level in maps[detector.cls_key]]
    _, matched = detector.proposal_matcher(true.boxes, anchors, locations, detector.num_anchors_per_loc)
    return matched


def _look(found: Any, scores: Any, true: Any) -> float:
    if not len(true):
        return 1.0 - float(scores.max(initial=0.0))
    order = np.argsort(-scores, kind="stable")
    hits = hits_of(found[order], true, _LOOK)
    one = np.ones((1, 1), dtype=np.int64)
    return float(average_precisions(ranked([scores[order]], [hits]), np.array([len(true)]), one)[0])
