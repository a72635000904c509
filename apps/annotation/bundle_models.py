"""Signed bundles that lie in the site's `models` folder, as models: zips and folders in, one model for each out.

A bundle is offered where its signature holds with the site's own key, or with a public key (PEM, Ed25519) in
`models/trusted/`. Nothing of it is parsed before that. What is not offered is said in the log, once.
"""

import logging
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from monailabel.interfaces.tasks.infer_v2 import InferType

from apps.annotation.served_model import Asked, Proposal, ServedModel, label_proposal, names_in
from labeling_protocols.geometry import Volume
from labeling_protocols.label import Label, LabelError
from labeling_protocols.records import Case
from labeling_protocols.store import Store
from training.bundle import Bundle, BundleError, open_bundle, open_bundle_folder
from training.foreign_bundle import ForeignModel, bundle_values
from training.group import choose_device
from training.prepared_images import PreparedImages, volume_bytes

TRUSTED = "trusted"
SAVE = "save_label"  # monailabel's word for keeping an answer as the prelabel
_OTHERS = {TRUSTED, "unpacked", "nninteractive"}  # folders there that are no bundles
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")

log = logging.getLogger("overread.models")

_State = tuple[tuple[str, int, int], ...]


class BundleInfer(ServedModel):
    """One signed bundle, for the cases of any protocol.

    Where the protocol of a case has all its structures by name, the answer is in the protocol's values.
    """

    def __init__(self, name: str, bundle: Bundle, store: Store, images: PreparedImages, device: str) -> None:
        self._values = bundle_values(bundle.metadata)
        super().__init__(
            key=f"bundle-{name}",
            protocol=None,
            kind=InferType.SEGMENTATION,
            labels=self._values,
            description=str(bundle.metadata.get("description") or bundle.metadata.get("name") or name),
            store=store,
            images=images,
        )
        self._bundle = bundle
        self._name = " ".join(str(bundle.metadata.get(part) or "") for part in ("name", "version")).strip() or name
        self._device = device
        self._model: ForeignModel | None = None
        self._lock = threading.Lock()

    def is_valid(self) -> bool:
        return True

    @property
    def version(self) -> str:
        return self._name[:128]

    def propose(self, asked: Asked) -> Proposal:
        """Kept as the case's prelabel only where that is asked for and the protocol has all the structures."""
        began = time.monotonic()
        foreign = self._foreign(asked.case)
        if asked.params.get(SAVE) and (asked.case is None or foreign):
            what = f"its structures {', '.join(foreign)} are none of the protocol's" if foreign else "there is no case"
            raise LabelError(f"this model's answer cannot be kept as a prelabel: {what}. Nothing was proposed.")
        label = self.images.get(
            (asked.digest, "label", self._bundle.sha256), lambda: self._answered(asked), volume_bytes
        )
        values = self._values
        if asked.case is not None and not foreign:
            values = self.store.protocol(asked.case.protocol).values
            label = _in_values(label, {self._values[name]: values[name] for name in self._values})
            if asked.params.get(SAVE):
                self.store.save_prelabel(asked.case.id, self.version, Label.of(label))
        return label_proposal(label, self.version, names_in(label, values), began)

    def _answered(self, asked: Asked) -> Volume:
        with self._lock:
            if self._model is None:
                self._model = ForeignModel(self._bundle, choose_device(self._device))
            return self._model.predict(asked.image, stopped=asked.stopped)

    def _foreign(self, case: Case | None) -> list[str]:
        """The structures that the case's protocol has not."""
        known = self.store.protocol(case.protocol).values if case is not None else {}
        return [name for name in self._values if case is not None and name not in known]


@dataclass(frozen=True, kw_only=True)
class _Found:
    state: _State
    model: BundleInfer | None


class BundleModels:
    """The models in a folder, as it is at the moment; each bundle is verified once for each change of it."""

    def __init__(
        self, folder: Path, own_key: Ed25519PublicKey, store: Store, images: PreparedImages, device: str
    ) -> None:
        self._folder = folder
        self._own_key = own_key
        self._store = store
        self._images = images
        self._device = device
        self._found: dict[str, _Found] = {}
        self._lock = threading.Lock()

    def models(self) -> dict[str, BundleInfer]:
        """The models on offer, by name."""
        with self._lock:
            keys = _state(self._folder / TRUSTED)
            found = {}
            for path in self._paths():
                state = (*keys, *_state(path))
                known = self._found.get(path.name)
                if known is None or known.state != state:
                    known = _Found(state=state, model=self._opened(path))
                found[path.name] = known
            self._found = found
            return {one.model.key: one.model for one in found.values() if one.model is not None}

    def _paths(self) -> Iterator[Path]:
        if not self._folder.is_dir():
            return
        for path in sorted(self._folder.iterdir()):
            if path.name not in _OTHERS and not path.name.startswith(".") and (path.suffix == ".zip" or path.is_dir()):
                yield path

    def _opened(self, path: Path) -> BundleInfer | None:
        """The bundle as a model, or None, and the log says why."""
        name = path.stem if path.suffix == ".zip" else path.name
        try:
            if not _NAME.match(name):
                raise BundleError("its name has other characters than letters, digits, '.', '-' and '_'.")
            model = BundleInfer(name, self._verified(path), self._store, self._images, self._device)
        except BundleError as error:
            log.warning("models/%s is not offered: %s", ascii(path.name)[1:-1][:80], error)
            return None
        log.info("models/%s is offered as %s", path.name, model.key)
        return model

    def _verified(self, path: Path) -> Bundle:
        """Raises what the site's own key says where no key verifies the bundle."""
        refusal: BundleError | None = None
        for key in (self._own_key, *self._trusted()):
            try:
                return open_bundle(path, key) if path.suffix == ".zip" else open_bundle_folder(path, key)
            except BundleError as error:
                refusal = refusal or error
        assert refusal is not None  # noqa: S101  there is one key at least
        raise refusal

    def _trusted(self) -> Sequence[Ed25519PublicKey]:
        keys = []
        for path in sorted((self._folder / TRUSTED).glob("*.pem")):
            try:
                key = serialization.load_pem_public_key(path.read_bytes())
            except (OSError, ValueError, UnsupportedAlgorithm):
                key = None
            if isinstance(key, Ed25519PublicKey):
                keys.append(key)
            else:
                log.warning("models/%s/%s is no Ed25519 public key, and trusts nobody", TRUSTED, path.name)
        return keys


def _state(path: Path) -> _State:
    """What shows that a file, or anything in a folder, was changed."""
    paths = [path, *sorted(path.rglob("*"))] if path.is_dir() else [path] if path.exists() else []
    stats = [(str(one), one.lstat()) for one in paths]
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)


def _in_values(label: Volume, values: Mapping[int, int]) -> Volume:
    """The label with each value replaced by what it is in the protocol; others become background."""
    lookup = np.zeros(256, np.uint8)
    for value, meant in values.items():
        lookup[value] = meant
    return Volume(array_ZYX=lookup[label.array_ZYX], geometry=label.geometry)
