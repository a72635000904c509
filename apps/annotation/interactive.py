"""The champion that clicks correct, as 3D Slicer's and OHIF's "deepedit" model: clicks and a box in, a label out.

Viewers send voxel indices of the image: clicks under each structure's name and under "background", a box as `roi` with
the name of the structure as `label`. Without any of them the model answers by itself. Clicks correct that answer, or,
where nobody asked for it, the champion's prelabel of the case, so that the first click is answered as fast as the next.
No answer is kept as a prelabel: it is the answer to somebody's clicks.
"""

import time
from dataclasses import replace

from monailabel.interfaces.tasks.infer_v2 import InferType

from apps.annotation.champions import INTERACTIVE, Champions
from apps.annotation.served_model import BACKGROUND, Asked, Proposal, ServedModel, label_proposal, names_in
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Prelabel
from labeling_protocols.store import Store
from training.box_prompts import ROI, bounds_of
from training.clicks import FOREGROUND, clicks_of


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
        """Whether there is an answer that clicks correct, so that only a part of the image is looked at."""
        interactor = self._champions.interactor_or_none(self.of_protocol)
        if interactor is None:
            return False
        return interactor.knows(asked.digest) or (self._corrects(asked) and self._prelabel(asked) is not None)

    def propose(self, asked: Asked) -> Proposal:
        self.require_own(asked.case)
        began = time.monotonic()
        model, interactor = self._champions.interactor(self.of_protocol)
        geometry = asked.image.geometry
        prelabel = self._prelabel(asked) if self._corrects(asked) and not interactor.knows(asked.digest) else None
        label = interactor.predict(
            asked.images,
            clicks_of(asked.params, interactor.structures, geometry),
            bounds=bounds_of(asked.params, interactor.structures, geometry),
            digest=asked.digest,
            base=self.store.label(prelabel.label).volume() if prelabel is not None else None,
            stopped=asked.stopped,
        )
        proposal = label_proposal(label, model, names_in(label, self._values), began)
        return replace(proposal, corrects=prelabel.model) if prelabel is not None else proposal

    def _corrects(self, asked: Asked) -> bool:
        """Whether clicks or a box came."""
        return any(asked.params.get(name) for name in (*self._values, BACKGROUND, FOREGROUND, ROI))

    def _prelabel(self, asked: Asked) -> Prelabel | None:
        """What the automatic champion of this moment proposed for the case."""
        if asked.case is None or not self._champions.exists(self.of_protocol):
            return None
        return self.store.prelabel(asked.case.id, self._champions.name(self.of_protocol))
