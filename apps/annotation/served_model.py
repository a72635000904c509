"""What every model that a viewer can use follows: an image and what was asked of it in, a proposal out.

Models answer for a case or for an uploaded image. Each is a monailabel `InferTask`, so that its own app knows it too.
"""

import tempfile
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from labeling_protocols.geometry import Volume
from labeling_protocols.label_files import MARKUPS
from labeling_protocols.label_runs import pack_runs
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Case
from labeling_protocols.store import Store, UnknownError
from labeling_protocols.volumes import write_volume
from training.prepared_images import PreparedImages, volume_bytes
from training.stopping import Stopped, never

BACKGROUND = "background"
LABEL_SUFFIX = ".nrrd"


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """An image, and what is asked of it: `params` as the viewer sent them, `case` where the image is one's.

    `digest` names the image's content, `load` decodes it, or all its channels, the first first; `scribbles` is a volume
    the viewer sent beside, in values that `params` explains. `stopped` says whether nobody waits any more.
    """

    load: Callable[[], tuple[Volume, ...]]
    digest: str
    case: Case | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    scribbles: Volume | None = None
    stopped: Stopped = never

    @property
    def image(self) -> Volume:
        """What viewers show."""
        return self.load()[0]

    @property
    def images(self) -> tuple[Volume, ...]:
        """All channels, on the first one's grid."""
        return self.load()


@dataclass(frozen=True, kw_only=True, eq=False)
class Proposal:
    """What a model version proposed for an image: a label on its grid, or markups in 3D Slicer's JSON.

    `params` is what viewers are told beside; `empty` says that there is no markup in the markups. `corrects` is the
    model whose prelabel this one changed and did not replace.
    """

    model: str
    label: Volume | None = None
    markups: bytes = b""
    empty: bool = False
    corrects: str = ""
    params: Mapping[str, Any]


class ServedModel(InferTask):
    """One model of a site, under the name `key`.

    `protocol` is the one its structures are of, None for models that are of no protocol; then it answers for the cases
    of any.
    """

    def __init__(
        self,
        *,
        key: str,
        protocol: Protocol | None,
        kind: InferType,
        labels: Mapping[str, int],
        description: str,
        store: Store,
        images: PreparedImages,
    ) -> None:
        super().__init__(type=kind, labels=dict(labels), dimension=3, description=description)
        self.key = key
        self.protocol = protocol
        self.store = store
        self.images = images

    @abstractmethod
    def propose(self, asked: Asked) -> Proposal:
        """What the model says to this; raises, in words for the viewer, what it cannot answer.

        `InferenceStopped` once nobody waits any more.
        """

    @property
    def version(self) -> str:
        """The name and version that results carry, "" where there is none."""
        return ""

    @property
    def of_protocol(self) -> str:
        """The name of the model's protocol, "" where it is of none."""
        return self.protocol.name if self.protocol is not None else ""

    @property
    def takes_scribbles(self) -> bool:
        return bool(self.type == InferType.SCRIBBLES)

    def is_quick(self, asked: Asked) -> bool:
        """Whether the answer takes a moment, because most of it is known: then it waits for no whole inference."""
        return False

    def info(self) -> dict[str, Any]:
        told: dict[str, Any] = super().info()
        return {**told, "version": self.version}

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """monailabel's own way in: the proposal as a file, for a case."""
        case = self.store.case(str(request["image"]))
        proposal = self.propose(case_asked(self.store, self.images, case, request))
        suffix = MARKUPS if proposal.markups else LABEL_SUFFIX
        with tempfile.NamedTemporaryFile(suffix=suffix, delete=False) as file:
            if proposal.label is None:
                file.write(proposal.markups)
            else:
                write_volume(proposal.label, Path(file.name))
        return file.name, dict(proposal.params)

    def require_own(self, case: Case | None) -> None:
        """Raise `UnknownError` for a case of another protocol than this model's."""
        if case is not None and self.protocol is not None and case.protocol != self.protocol.name:
            raise UnknownError("this case is labelled under another protocol than this model's; nothing was done")


def case_asked(
    store: Store,
    images: PreparedImages,
    case: Case,
    params: Mapping[str, Any],
    *,
    scribbles: Volume | None = None,
    stopped: Stopped = never,
) -> Asked:
    """What is asked of a case; its image is decoded once and kept."""
    return Asked(
        load=lambda: images.get((case.digest, "volume"), lambda: store.channels(case), channels_bytes),
        digest=case.digest,
        case=case,
        params=params,
        scribbles=scribbles,
        stopped=stopped,
    )


def channels_bytes(channels: Sequence[Volume]) -> int:
    """What decoded channels take."""
    return sum(map(volume_bytes, channels))


def names_in(label: Volume, values: Mapping[str, int]) -> dict[str, int]:
    """The structures a label has voxels of, by value.

    3D Slicer gives the names it is told to the values it finds, in order; a name without voxels would shift them all.
    """
    flat = np.ascontiguousarray(label.array_ZYX, np.uint8).reshape(-1)
    runs = pack_runs(flat)
    voxels = runs.voxels if runs is not None else np.bincount(flat, minlength=256)
    return {name: value for name, value in values.items() if voxels[value]}


def label_proposal(label: Volume, model: str, names: Mapping[str, int], began: float, **told: Any) -> Proposal:
    """A proposed label with what monailabel's viewers are told of it; `names` are those in it, `began` monotonic."""
    params = {
        "label_names": dict(names),
        "model": model,
        "latencies": {"total": round(time.monotonic() - began, 3)},
        "centroids": {},
    }
    return Proposal(label=label, model=model, params={**params, **told})
