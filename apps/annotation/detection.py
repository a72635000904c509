"""The champion that draws boxes: a case or an image in, its findings as 3D Slicer's markups out.

monailabel's module for 3D Slicer loads what a "detection" model answers with `slicer.util.loadMarkups`, where the file
ends in ".json", and shows each ROI in it. It calls all of them "Detection ROI", so that a box's structure stands at its
control point too, where it stays until the boxes are saved.
"""

import time
from dataclasses import asdict

from monailabel.interfaces.tasks.infer_v2 import InferType

from apps.annotation.champions import DETECTION, Champions
from apps.annotation.served_model import Asked, Proposal, ServedModel
from labeling_protocols.markups import markups_bytes
from labeling_protocols.protocol import Protocol, Task
from labeling_protocols.store import Store


class DetectionInfer(ServedModel):
    """The detection model of one protocol."""

    def __init__(self, protocol: Protocol, store: Store, champions: Champions) -> None:
        boxed = [structure for structure in protocol.structures if Task.BOXES in structure.tasks]
        super().__init__(
            key=f"{protocol.name}-detection",
            protocol=protocol,
            kind=InferType.DETECTION,
            labels={structure.name: structure.value for structure in boxed},
            description=f"{protocol.title}: the released model that draws boxes",
            store=store,
            images=champions.images,
        )
        self._champions = champions

    def is_valid(self) -> bool:
        return self._champions.exists(self.of_protocol, DETECTION)

    @property
    def version(self) -> str:
        return self._champions.name(self.of_protocol, DETECTION) if self.is_valid() else ""

    def propose(self, asked: Asked) -> Proposal:
        """The findings that are as certain as the model's operating point, most certain first."""
        self.require_own(asked.case)
        began = time.monotonic()
        model, detector = self._champions.detector(self.of_protocol)
        findings = detector.report(asked.images, digest=asked.digest, stopped=asked.stopped)
        boxes = [finding.box for finding in findings]
        return Proposal(
            model=model,
            markups=markups_bytes(boxes, (), asked.image.geometry),
            empty=not boxes,
            params={
                "box": [[*box.centre_mm_LPS, *box.size_mm_XYZ] for box in boxes],
                "label": [box.structure for box in boxes],
                "score": [round(finding.score, 4) for finding in findings],
                "boxes": [asdict(box) for box in boxes],
                "label_names": {},
                "model": model,
                "latencies": {"total": round(time.monotonic() - began, 3)},
            },
        )
