"""The champion as monailabel's model: a case or an image in, the label the released model proposes out.

Only a bundle whose signature and digests verify is loaded. Before there is a champion there is no model.
"""

import time

from monailabel.interfaces.tasks.infer_v2 import InferType

from apps.annotation.champions import Champions
from apps.annotation.served_model import Asked, Proposal, ServedModel, label_proposal, names_in
from apps.annotation.visible import counted, names_present
from labeling_protocols.label import Label
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Case
from labeling_protocols.store import Store


class ChampionInfer(ServedModel):
    """The automatic segmentation model of one protocol; what it proposes for a case is kept as its prelabel."""

    def __init__(self, protocol: Protocol, store: Store, champions: Champions) -> None:
        super().__init__(
            key=protocol.name,
            protocol=protocol,
            kind=InferType.SEGMENTATION,
            labels=protocol.values,
            description=f"{protocol.title}: the released model",
            store=store,
            images=champions.images,
        )
        self._values = protocol.values
        self._champions = champions

    def is_valid(self) -> bool:
        """Without a champion the model is not offered: viewers run every offered model on each new case."""
        return self._champions.exists(self.of_protocol)

    @property
    def version(self) -> str:
        return self._champions.name(self.of_protocol) if self.is_valid() else ""

    def is_quick(self, asked: Asked) -> bool:
        """Whether this version proposed for the case before."""
        return asked.case is not None and self.store.prelabel(asked.case.id, self.version) is not None

    def propose(self, asked: Asked) -> Proposal:
        self.require_own(asked.case)
        if asked.case is not None:
            return self._for_case(asked.case, asked)
        began = time.monotonic()
        predictor = self._champions.predictor(self.of_protocol)
        label = predictor.predict(asked.images, digest=asked.digest, stopped=asked.stopped)
        return label_proposal(label, predictor.name, names_in(label, self._values), began)

    def _for_case(self, case: Case, asked: Asked) -> Proposal:
        """What the champion proposes for a case; proposed once for each model version."""
        began = time.monotonic()
        known = self.store.prelabel(case.id, self._champions.name(self.of_protocol))
        if known is None:
            predictor = self._champions.predictor(self.of_protocol)
            label = predictor.predict(asked.images, digest=asked.digest, stopped=asked.stopped)
            known = self.store.save_prelabel(case.id, predictor.name, Label.of(label))
        names = names_present(self.store.protocol(case.protocol), counted(self.store, case, known))
        return label_proposal(self.store.label(known.label).volume(), known.model, names, began)
