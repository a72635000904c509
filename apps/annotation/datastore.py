"""monailabel's `Datastore` over the store: the caller's own reads, truths for those who may see them, prelabels apart.

Every answer depends on who calls (`calling.py`), so that no reader sees another's work (`visible.py`, `listing.py`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore

from apps.annotation.calling import caller, caller_or_nobody
from apps.annotation.listing import Entry, as_object, as_text, entries, image_info
from apps.annotation.saving import Upload, save
from apps.annotation.visible import FINAL, LABEL_SUFFIX, ORIGINAL, RefusedError, StoredLabel, Visible, sees_truth
from labeling_protocols.records import Case
from labeling_protocols.store import Store, UnknownError
from labeling_protocols.volumes import volume_bytes


class ReadsDatastore(Datastore):
    """The store, as monailabel sees it."""

    def __init__(self, store: Store, secret: bytes) -> None:
        self.store = store
        self.visible = Visible(store, secret)
        self._secret = secret

    def stored(self, case: Case, tag: str) -> StoredLabel:
        """The label of this tag that the caller may see; raises `UnknownError`, or `RefusedError` for prelabels."""
        account = caller_or_nobody()
        found = self.visible.label(account, case, tag) if account is not None else None
        if found is None:
            raise UnknownError("there is no such label for you")
        return found

    def name(self) -> str:
        return "Overread"

    def set_name(self, name: str) -> None:
        raise _refused()

    def description(self) -> str:
        return "Cases, the caller's own reads and prelabels"

    def set_description(self, description: str) -> None:
        raise _refused()

    def datalist(self) -> list[dict[str, Any]]:
        """Case ids only: paths of this machine are nobody's business."""
        found = self._entries(prelabels=False)
        return [{"image": entry.case, "label": entry.case} for entry in found if FINAL in entry.labels]

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        case = self.store.case(image_id)
        return {tag: image_id for tag in (FINAL, ORIGINAL) if self._has(case, tag)}

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        return self.get_labels_by_image_id(image_id).get(tag, "")

    def get_image(self, image_id: str, params: Any = None) -> bytes:
        return self.store.blobs.get(self.store.case(image_id).image)

    def get_image_uri(self, image_id: str) -> str:
        return str(self.store.image_path(self.store.case(image_id)))

    def get_label(self, label_id: str, label_tag: str, params: Any = None) -> bytes:
        stored = self.stored(self.store.case(label_id), label_tag)
        return volume_bytes(self.store.label(stored.digest).volume(), LABEL_SUFFIX)

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        raise _refused()

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        case = self.store.case(image_id)
        return image_info(case, self.store.protocol(case.protocol), case.channels)

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        return self.stored(self.store.case(label_id), label_tag).info

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        return [entry.case for entry in self._entries() if (label_tag or FINAL) in entry.labels]

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        return [entry.case for entry in self._entries() if (label_tag or FINAL) not in entry.labels]

    def list_images(self) -> list[str]:
        return [case.id for protocol in self.store.protocols() for case in self.store.cases(protocol.name)]

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        raise _refused()

    def refresh(self) -> None:
        """Nothing is kept that could be out of date."""

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        raise RefusedError("images come in through `overread ingest`, which removes what names a patient first.")

    def remove_image(self, image_id: str) -> None:
        raise _refused()

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        file = Path(label_filename)
        upload = Upload(content=file.read_bytes(), name=file.name)
        save(
            self.store, self.visible, caller(), image_id, upload, tag=label_tag, params=label_info, client="monailabel"
        )
        return image_id

    def remove_label(self, label_id: str, label_tag: str) -> None:
        raise RefusedError("a read is never removed or overwritten; save again to make its next revision.")

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        raise _refused()

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        raise _refused()

    def status(self) -> dict[str, Any]:
        """Counts over all protocols: the caller's own reads, or truths for who reads nothing. Calibration cases count
        as any other, so that no count tells them apart."""
        account = caller_or_nobody()
        counts = [self.store.progress(protocol.name) for protocol in self.store.protocols()]
        done = 0
        if account is not None:
            done = sum(c.truths if sees_truth(account) else c.by_reader.get(account.id, 0) for c in counts)
        total = sum(c.cases + c.calibration_cases for c in counts)
        return {"total": total, "completed": done, "label_tags": {FINAL: done}}

    def json(self) -> dict[str, Any]:
        """What monailabel's client calls the datastore: each case with the labels the caller may see."""
        return {**self._about(), "objects": {entry.case: as_object(entry) for entry in self._entries()}}

    def as_text(self) -> str:
        """The same, written as JSON."""
        return as_text(self._about(), self._entries())

    def _about(self) -> dict[str, str]:
        return {"name": self.name(), "description": self.description(), "images_dir": "", "labels_dir": ""}

    def _entries(self, *, prelabels: bool = True) -> Iterator[Entry]:
        account = caller_or_nobody()
        if account is None:
            return iter(())
        return entries(self.store, self._secret, account, prelabels=prelabels)

    def _has(self, case: Case, tag: str) -> bool:
        try:
            return bool(self.stored(case, tag))
        except (UnknownError, RefusedError):
            return False


def _refused() -> RefusedError:
    return RefusedError("this server does not do that; nothing was done.")
