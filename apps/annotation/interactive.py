"""The champion that clicks correct, as 3D Slicer's and OHIF's "deepedit" model: clicks and a box in, a label out.

Viewers send voxel indices of the image: clicks under each structure's name and under "background", a box as `roi` with
the name of the structure as `label`. Without any of them the model answers by itself. No answer is kept as a prelabel:
it is the answer to somebody's clicks.
"""

import time

from monailabel.interfaces.tasks.infer_v2 import InferType

from apps.annotation.champions import INTERACTIVE, Champions
from apps.annotation.served_model import BACKGROUND, Asked, Proposal, ServedModel, label_proposal, names_in
from labeling_protocols.protocol import Protocol
from labeling_protocols.store import Store
from training.box_prompts import bounds_of
from training.clicks import clicks_of


class InteractiveInfer(ServedModel):
    """The interactive model of one protocol."""

    def __init__(self, protocol: Protocol, store: Store, champions: Champions) -> None:
        super().__init__(
            key=f"{protocol.name}-interactive",
            protocol=protocol,
            kind=InferType.DEEPEDIT,
            labels={**protocol.values, BACKGROUND: 0},
            description=f"{protocol.title}: the released model that clicks and boxes correct",
            store=store,
            images=champions.images,
        )
        self._values = protocol.values
        self._champions = champions

    def is_valid(self) -> bool:
        return self._champions.exists(self.of_protocol, INTERACTIVE)

    @property
    def version(self) -> str:
        return self._champions.name(self.of_protocol, INTERACTIVE) if self.is_valid() else ""

    def is_quick(self, asked: Asked) -> bool:
        """Whether the image is prepared and answered, so that only a part of it is looked at."""
        interactor = self._champions.interactor_or_none(self.of_protocol)
        return interactor is not None and interactor.knows(asked.digest)

    def propose(self, asked: Asked) -> Proposal:
        self.require_own(asked.case)
        began = time.monotonic()
        model, interactor = self._champions.interactor(self.of_protocol)
        geometry = asked.image.geometry
        label = interactor.predict(
            asked.images,
            clicks_of(asked.params, interactor.structures, geometry),
            bounds=bounds_of(asked.params, interactor.structures, geometry),
            digest=asked.digest,
            stopped=asked.stopped,
        )
        return label_proposal(label, model, names_in(label, self._values), began)
