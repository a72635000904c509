"""Which label of a case a caller may see under which of monailabel's tags: account, case and tag in, a label out.

Of a dispute that the caller edits, `original` and `final` are his edit. Otherwise `original` is the prelabel, where the
protocol shows it, and `final` the truth for those who may see truths, for others their own newest read. `version_N` is
the N-th of the caller's own revisions; for those who may see truths it is the N-th reader's newest read, in an order
that the site's key draws for each case.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from apps.annotation.edits import edit_of
from labeling_protocols import schema, seats, settlement
from labeling_protocols.blinding import lifted
from labeling_protocols.label_codec import encode_label
from labeling_protocols.protocol import PrelabelPolicy, Protocol
from labeling_protocols.pseudonyms import keyed_order
from labeling_protocols.records import Account, Case, Edit, Prelabel, Read, Review, Role, Truth
from labeling_protocols.reviews import newest_reviews
from labeling_protocols.rows import by_structure
from labeling_protocols.store import Store, UnknownError

ORIGINAL = "original"
FINAL = "final"
LABEL_SUFFIX = ".nrrd"

_VERSION = re.compile(r"version_([1-9][0-9]{0,5})")
_SEES_TRUTH = (Role.ADJUDICATOR, Role.ENGINEER, Role.ADMINISTRATOR)


class RefusedError(PermissionError):
    """Something monailabel's interface has and this server does not do, or not for this caller; nothing was done."""


@dataclass(frozen=True, kw_only=True)
class StoredLabel:
    """A label a caller may see, and what monailabel calls its info; `model` made it where it is a prelabel."""

    digest: str
    info: dict[str, Any]
    model: str | None = None


class Visible:
    """What of a store may be seen by whom."""

    def __init__(self, store: Store, secret: bytes) -> None:
        self._store = store
        self._secret = secret

    def label(self, account: Account, case: Case, tag: str) -> StoredLabel | None:
        """The label of this tag, None where there is none; raises `UnknownError` or, for prelabels, `RefusedError`."""
        edit = edit_of(self._store, account, case) if tag in ("", FINAL, ORIGINAL) else None
        if edit is not None:
            return StoredLabel(digest=edit.label, info=edit_info(self._store, account, case, edit))
        if tag == ORIGINAL:
            return self._original(account, case)
        if tag in ("", FINAL):
            return self._final(account, case)
        number = version_number(tag)
        if number is None:
            raise UnknownError(f"unknown tag; expected {FINAL}, {ORIGINAL} or version_1, version_2 and so on")
        versions = self.versions(account, case)
        return self._version(account, case, number, versions[number - 1]) if number <= len(versions) else None

    def versions(self, account: Account, case: Case) -> list[Read]:
        """What `version_1`, `version_2` and so on are for this caller."""
        if not sees_truth(account):
            since_version = self._store.asked(case.protocol).since_version
            own = self._store.reads(case.id, account.id)
            return [read for read in own if read.protocol_version >= since_version]
        newest = {read.reader: read for read in self._store.latest_reads(case.id)}
        return [newest[reader] for reader in keyed_order(self._secret, case.id, newest)]

    def newest_own(self, account: Account, case: Case) -> Read | None:
        """The caller's newest read of a case, unless it was withdrawn."""
        own = self.versions(account, case) if not sees_truth(account) else []
        return own[-1] if own and not own[-1].withdrawn else None

    def prelabel(self, account: Account, case: Case) -> None:
        """Raise `RefusedError` for a reader who may not be shown a model's proposal for this case (yet)."""
        if Role.READER not in account.roles:
            return
        asked = self._store.asked(case.protocol)
        if asked.protocol.prelabels is PrelabelPolicy.NEVER:
            raise RefusedError("readers of this protocol are never shown what a model proposes. Nothing was done.")
        if asked.protocol.prelabels is PrelabelPolicy.AFTER_FIRST_PASS and self.newest_own(account, case) is None:
            raise RefusedError(
                "readers of this protocol read a case themselves before they are shown what a model proposes;"
                " save your own label first. Nothing was done."
            )

    def _original(self, account: Account, case: Case) -> StoredLabel | None:
        self.prelabel(account, case)
        if Role.READER in account.roles and not self._has_seat(account, case):
            # Whether there is a proposal yet would tell that somebody works on the case.
            raise RefusedError("you have no seat on this case; ask for your next case first. Nothing was done.")
        found = self._store.prelabel(case.id)
        if found is None:
            return None
        names = names_present(self._store.protocol(case.protocol), counted(self._store, case, found))
        info = label_info(case.id, {**label_names(names), "model": found.model})
        return StoredLabel(digest=found.label, info=info, model=found.model)

    def _has_seat(self, account: Account, case: Case) -> bool:
        since_version = self._store.asked(case.protocol).since_version
        with self._store.engine.connect() as connection:
            return seats.held(connection, case.id, since_version, account.id) is not None

    def _final(self, account: Account, case: Case) -> StoredLabel | None:
        truth = self._truth(account, case)
        if truth is not None:
            settled = truth.settled.value
            info = label_info(case.id, {**self._names(case), "client_id": settled, "settled": settled})
            return StoredLabel(digest=truth.label, info=info)
        own = self.newest_own(account, case)
        if own is None:
            return None
        version = self._version(account, case, len(self.versions(account, case)), own)
        return StoredLabel(digest=version.digest, info={**version.info, **self._names(case)})

    def _truth(self, account: Account, case: Case) -> Truth | None:
        if sees_truth(account):
            return settlement.truth(self._store, case.id)
        # Nothing is judged here: how long that takes would tell a reader that all have read and do not agree.
        return settlement.truth(self._store, case.id) if lifted(self._store, account.id, case.id) else None

    def _version(self, account: Account, case: Case, number: int, read: Read) -> StoredLabel:
        about: dict[str, Any] = {"version": number, "client_id": spoken_reader(account, number)}
        if sees_truth(account) or lifted(self._store, account.id, case.id):
            review = newest_reviews(self._store, [read.id]).get(read.id)
            if review is not None:
                about["segmentationMeta"] = segmentation_meta(review, self._reviewer(account, review))
        return StoredLabel(digest=read.label, info=label_info(case.id, about))

    def _reviewer(self, account: Account, review: Review) -> str:
        """The reviewer's name; a reader is not told."""
        table = schema.accounts
        if not sees_truth(account):
            return ""
        with self._store.engine.connect() as connection:
            return str(connection.execute(sa.select(table.c.name).where(table.c.id == review.reviewer)).scalar())

    def _names(self, case: Case) -> dict[str, Any]:
        return label_names(self._store.protocol(case.protocol).values)


def sees_truth(account: Account) -> bool:
    """A reader never does, whatever other roles there are: it would show the others' work."""
    return Role.READER not in account.roles and bool(account.roles.intersection(_SEES_TRUTH))


def version_number(tag: str) -> int | None:
    found = _VERSION.fullmatch(tag)
    return int(found[1]) if found else None


def spoken_reader(account: Account, number: int) -> str:
    """Who made a version, in the field where 3D Slicer's Reviewer expects an annotator's name."""
    return f"reader {number}" if sees_truth(account) else account.name


def edit_info(store: Store, account: Account, case: Case, edit: Edit) -> dict[str, Any]:
    """What is told of an edit; nothing of whose outline it began from."""
    voxels = by_structure(store.protocol(case.protocol), encode_label(store.label(edit.label)).voxels)
    names = names_present(store.protocol(case.protocol), voxels)
    return label_info(case.id, {**label_names(names), "client_id": account.name})


def label_names(names: Mapping[str, int]) -> dict[str, Any]:
    """What each value of a label is called, in the words of 3D Slicer's two modules."""
    listed = [{"name": name, "idx": value} for name, value in names.items()]
    return {"params": {"label_names": names}, "label_info": listed}


def label_info(case_id: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """What monailabel's clients are told of a label."""
    return {"name": f"{case_id}{LABEL_SUFFIX}", **about}


def segmentation_meta(review: Review, reviewer: str) -> dict[str, Any]:
    """A review as 3D Slicer's Reviewer module reads it; all five fields must be there."""
    return {
        "status": review.status,
        "level": review.level,
        "approvedBy": reviewer,
        "comment": review.comment,
        "editTime": int(review.created.timestamp()),
    }


def names_present(protocol: Protocol, voxels: Mapping[str, int]) -> dict[str, int]:
    """The structures a label has voxels of, by value.

    3D Slicer gives the names it is told to the values it finds, in order; a name without voxels would shift them all.
    """
    return {name: value for name, value in protocol.values.items() if voxels.get(name)}


def counted(store: Store, case: Case, prelabel: Prelabel) -> Mapping[str, int]:
    """Voxels of a prelabel by structure, counted now where they were not counted when it was kept."""
    if prelabel.voxels:
        return prelabel.voxels
    return by_structure(store.protocol(case.protocol), encode_label(store.label(prelabel.label)).voxels)
