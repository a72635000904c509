"""monailabel's `Datastore` over the store: the caller's own reads, truths for those who may see them, prelabels apart.

Every answer depends on who calls (`calling.py`), so that no reader sees another's work. The tags are monailabel's:
`original` is the prelabel; `final`, and no tag, is the caller's newest read, or the truth for those who read nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore

from apps.annotation.calling import caller, caller_or_nobody
from apps.annotation.label_values import in_protocol_values, label_info_of
from labeling_protocols import settlement
from labeling_protocols.geometry import Volume
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Account, Case, Provenance, Read, Role
from labeling_protocols.store import LabelError, Store, UnknownError
from labeling_protocols.volumes import read_volume, volume_bytes

ORIGINAL = "original"
FINAL = "final"
IMAGE_SUFFIX = ".nii.gz"
LABEL_SUFFIX = ".nrrd"

_SEES_TRUTH = (Role.ADJUDICATOR, Role.ENGINEER, Role.ADMINISTRATOR)


class RefusedError(PermissionError):
    """Something monailabel's interface has and this server does not do; nothing was done."""


@dataclass(frozen=True, kw_only=True)
class StoredLabel:
    """A label a caller may see, and what monailabel calls its info."""

    digest: str
    info: dict[str, Any]


class ReadsDatastore(Datastore):
    """The store, as monailabel sees it."""

    def __init__(self, store: Store) -> None:
        self.store = store

    # What the server asks

    def label(self, case: Case, tag: str) -> StoredLabel | None:
        """The label of this tag that the caller may see, or None where there is none."""
        if tag == ORIGINAL:
            prelabel = self.store.prelabel(case.id)
            if prelabel is None:
                return None
            return StoredLabel(digest=prelabel.label, info=self._info(case, prelabel.label, {"model": prelabel.model}))
        if tag not in ("", FINAL):
            raise UnknownError(f"unknown tag; expected {FINAL} (your own read) or {ORIGINAL} (the prelabel)")
        account = caller_or_nobody()
        if account is None:
            return None
        if sees_truth(account):
            truth = settlement.truth(self.store, case.id)
            about = {"settled": truth.settled.value} if truth else {}
            return StoredLabel(digest=truth.label, info=self._info(case, truth.label, about)) if truth else None
        own = self.store.reads(case.id, account.id)
        if not own:
            return None
        return StoredLabel(digest=own[-1].label, info=self._info(case, own[-1].label, {"revision": own[-1].revision}))

    def label_volume(self, stored: StoredLabel) -> Volume:
        return self.store.label(stored.digest)

    def save(self, case_id: str, label: Volume, tag: str, params: Mapping[str, object], client: str) -> Read:
        """Keep a label as the caller's next revision; raises as `Store.save_read`, having stored nothing."""
        if tag == ORIGINAL:
            raise RefusedError("a prelabel is what this server's model proposed; a viewer cannot save one.")
        if tag not in ("", FINAL):
            raise LabelError(f"unknown tag; save without a tag or as {FINAL}. Nothing was saved.")
        case = self.store.case(case_id)
        protocol = self.store.protocol(case.protocol)
        prelabel = self.store.prelabel(case_id)
        return self.store.save_read(
            case_id=case_id,
            reader=caller().id,
            label=in_protocol_values(protocol, label, label_info_of(params)),
            provenance=Provenance(client=client, prelabel_model=prelabel.model if prelabel else None),
        )

    def _info(self, case: Case, digest: str, about: dict[str, Any]) -> dict[str, Any]:
        protocol = self.store.protocol(case.protocol)
        names = names_present(protocol, self.store.label(digest)) if about.get("model") else protocol.values
        return {"name": f"{case.id}{LABEL_SUFFIX}", "params": {"label_names": names}, **about}

    # What monailabel asks

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
        tagged = ((case.id, self.get_labels_by_image_id(case.id)) for case in self._cases())
        return [{"image": case_id, "label": case_id} for case_id, tags in tagged if FINAL in tags]

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        case = self.store.case(image_id)
        return {tag: image_id for tag in (FINAL, ORIGINAL) if self.label(case, tag) is not None}

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        return self.get_labels_by_image_id(image_id).get(tag, "")

    def get_image(self, image_id: str, params: Any = None) -> bytes:
        return self.store.blobs.get(self.store.case(image_id).image)

    def get_image_uri(self, image_id: str) -> str:
        return str(self.store.image_path(self.store.case(image_id)))

    def get_label(self, label_id: str, label_tag: str, params: Any = None) -> bytes:
        stored = self.label(self.store.case(label_id), label_tag)
        if stored is None:
            raise UnknownError("there is no such label")
        return volume_bytes(self.label_volume(stored), LABEL_SUFFIX)

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        raise _refused()

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        case = self.store.case(image_id)
        return {
            "name": f"{case.id}{IMAGE_SUFFIX}",
            "checksum": f"SHA256:{case.image}",
            "modality": case.modality,
            "protocol": case.protocol,
        }

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        stored = self.label(self.store.case(label_id), label_tag)
        if stored is None:
            raise UnknownError("there is no such label")
        return stored.info

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        return [case.id for case in self._cases() if (label_tag or FINAL) in self.get_labels_by_image_id(case.id)]

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        labelled = set(self.get_labeled_images(label_tag, labels))
        return [case_id for case_id in self.list_images() if case_id not in labelled]

    def list_images(self) -> list[str]:
        return [case.id for case in self._cases()]

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        raise _refused()

    def refresh(self) -> None:
        """Nothing is kept that could be out of date."""

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        raise RefusedError("images come in through `overread ingest`, which removes what names a patient first.")

    def remove_image(self, image_id: str) -> None:
        raise _refused()

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        self.save(image_id, read_volume(Path(label_filename)), label_tag, label_info, "monailabel")
        return image_id

    def remove_label(self, label_id: str, label_tag: str) -> None:
        raise RefusedError("a read is never removed or overwritten; save again to make its next revision.")

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        raise _refused()

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        raise _refused()

    def status(self) -> dict[str, Any]:
        """Counts over all protocols: the caller's own reads, or truths for who reads nothing himself."""
        account = caller_or_nobody()
        counts = [self.store.progress(protocol.name) for protocol in self.store.protocols()]
        done = 0
        if account is not None:
            done = sum(c.truths if sees_truth(account) else c.by_reader.get(account.id, 0) for c in counts)
        return {"total": sum(c.cases for c in counts), "completed": done, "label_tags": {FINAL: done}}

    def json(self) -> dict[str, Any]:
        """What monailabel's client calls the datastore: each case with the labels the caller may see."""
        return {
            "name": self.name(),
            "description": self.description(),
            "images_dir": "",
            "labels_dir": "",
            "objects": {case.id: self._as_object(case) for case in self._cases()},
        }

    def _as_object(self, case: Case) -> dict[str, Any]:
        labels = {tag: self.label(case, tag) for tag in (FINAL, ORIGINAL)}
        return {
            "image": {"ext": IMAGE_SUFFIX, "info": self.get_image_info(case.id)},
            "labels": {tag: {"ext": LABEL_SUFFIX, "info": stored.info} for tag, stored in labels.items() if stored},
        }

    def _cases(self) -> list[Case]:
        return [case for protocol in self.store.protocols() for case in self.store.cases(protocol.name)]


def sees_truth(account: Account) -> bool:
    """A reader never does, whatever else he is: it would show him the others' work."""
    return Role.READER not in account.roles and bool(account.roles.intersection(_SEES_TRUTH))


def names_present(protocol: Protocol, label: Volume) -> dict[str, int]:
    """The structures a label has voxels of, by value.

    3D Slicer gives the names it is told to the values it finds, in order; a name without voxels would shift them all.
    """
    return {name: value for name, value in protocol.values.items() if bool((label.array_ZYX == value).any())}


def _refused() -> RefusedError:
    return RefusedError("this server does not do that; nothing was done.")
