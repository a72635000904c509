"""The whole datastore as monailabel lists it: a caller in, every case with the labels that caller may see out.

A few queries for all cases, and no label is opened: what is listed was counted when it was kept.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from apps.annotation.edits import open_edits
from apps.annotation.visible import (
    FINAL,
    LABEL_SUFFIX,
    ORIGINAL,
    counted,
    edit_info,
    label_info,
    label_names,
    names_present,
    sees_truth,
    segmentation_meta,
    spoken_reader,
)
from labeling_protocols import schema, settlement
from labeling_protocols.blinding import FINISHED
from labeling_protocols.protocol import PrelabelPolicy, Protocol
from labeling_protocols.protocol_parts import BlindingLifts
from labeling_protocols.pseudonyms import keyed_order
from labeling_protocols.records import Account, Outcome, Prelabel, Review, Role, Settled
from labeling_protocols.reviews import newest_reviews
from labeling_protocols.store import Asked, Store

IMAGE_SUFFIX = ".nii.gz"

_EDITED = (ORIGINAL, FINAL)  # what an edit takes the place of
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode

Labels = dict[str, dict[str, Any]]  # monailabel's info of each label, by tag


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One case; `labels` end with the versions, as 3D Slicer's Reviewer counts on from the last."""

    case: str
    image: dict[str, Any]
    labels: Labels


def entries(store: Store, secret: bytes, account: Account, *, prelabels: bool = True) -> Iterator[Entry]:
    """Every case of every protocol, by protocol and id; without their prelabels where nobody asks for them."""
    for protocol in store.protocols():
        asked = store.asked(protocol.name)
        if sees_truth(account):
            settlement.judge(store, protocol.name)
            versions = _everybodys(store, secret, account, asked)
            read = None
        else:
            versions, read = _own(store, account, asked)
        edited = open_edits(store, protocol.name, account)
        originals = _originals(store, account, asked, read) if prelabels else {}
        for row in _cases(store, protocol.name):
            original = {ORIGINAL: _original(store, asked, originals[row.id])} if row.id in originals else {}
            labels = {**original, **versions(row)}
            if row.id in edited:
                info = edit_info(store, account, store.case(row.id), edited[row.id])
                labels = {ORIGINAL: info, FINAL: info, **{tag: x for tag, x in labels.items() if tag not in _EDITED}}
            further = [channel["name"] for channel in row.channels or ()]
            yield Entry(case=row.id, image=image_info(row, protocol, further), labels=labels)


def as_object(entry: Entry) -> dict[str, Any]:
    """One of the `objects` of monailabel's datastore."""
    return {
        "image": {"ext": IMAGE_SUFFIX, "info": entry.image},
        "labels": {tag: {"ext": LABEL_SUFFIX, "info": info} for tag, info in entry.labels.items()},
    }


def as_text(about: Mapping[str, Any], found: Iterator[Entry]) -> str:
    """monailabel's datastore as JSON, written case by case: a hundred thousand small dicts at once cost seconds."""
    head = json.dumps({**about, "objects": {}}).removesuffix("}}")
    objects = ",".join(f'"{entry.case}":{_ENCODE(as_object(entry))}' for entry in found)
    return head + objects + "}}"


def image_info(case: Any, protocol: Protocol, further: Sequence[str]) -> dict[str, Any]:
    """What is told of the image of a case (a `Case` or its row); `further` names the channels beside the first."""
    return {
        "name": f"{case.id}{IMAGE_SUFFIX}",
        "checksum": f"SHA256:{case.image}",
        "modality": case.modality,
        "protocol": case.protocol,
        **({"channels": [*protocol.channels[:1], *further]} if further else {}),
    }


def _cases(store: Store, protocol: str) -> Sequence[Any]:
    table = schema.cases
    told = (table.c.id, table.c.protocol, table.c.image, table.c.modality, table.c.channels)
    query = sa.select(*told, table.c.reads, table.c.outcome).where(table.c.protocol == protocol).order_by(table.c.id)
    with store.engine.connect() as connection:
        return connection.execute(query).all()


# What readers see


def _own(store: Store, account: Account, asked: Asked) -> tuple[Callable[[Any], Labels], set[str]]:
    """The labels of a case for its reader, and the cases with a read of the caller's that counts."""
    revisions, withdrawn = _own_revisions(store, account, asked)
    counting = {case for case, reads in revisions.items() if reads[-1] not in withdrawn}
    lifts = asked.protocol.blinding.lifts is BlindingLifts.WHEN_SETTLED
    reviews = newest_reviews(store, protocol=asked.protocol.name) if lifts else {}
    names = label_names(asked.protocol.values)

    def version(case: str, number: int, review: Review | None) -> dict[str, Any]:
        about: dict[str, Any] = {"version": number, "client_id": spoken_reader(account, number)}
        if review is not None:
            about["segmentationMeta"] = segmentation_meta(review, "")
        return label_info(case, about)

    def labels(row: Any) -> Labels:
        reads = revisions.get(row.id, [])
        lifted = lifts and row.id in counting and row.outcome in FINISHED
        versions = {
            f"version_{number}": version(row.id, number, reviews.get(read) if lifted else None)
            for number, read in enumerate(reads, 1)
        }
        if row.id not in counting:
            return versions
        newest = versions[f"version_{len(reads)}"]
        return {FINAL: _truth_info(row, names) if lifted else {**newest, **names}, **versions}

    return labels, counting


def _own_revisions(store: Store, account: Account, asked: Asked) -> tuple[dict[str, list[int]], set[int]]:
    """The ids of the caller's revisions by case, oldest first, and those of all that were withdrawn."""
    reads, cases, withdrawals = schema.reads, schema.cases, schema.withdrawals
    mine = sa.and_(reads.c.reader == account.id, reads.c.protocol_version >= asked.since_version)
    query = (
        sa.select(reads.c.case, reads.c.id)
        .join(cases, cases.c.id == reads.c.case)
        .where(mine, cases.c.protocol == asked.protocol.name)
        .order_by(reads.c.id)
    )
    of_mine = sa.select(withdrawals.c.read).join(reads, reads.c.id == withdrawals.c.read).where(mine)
    revisions: dict[str, list[int]] = {}
    with store.engine.connect() as connection:
        for case, read in connection.execute(query):
            revisions.setdefault(case, []).append(read)
        return revisions, set(connection.execute(of_mine).scalars())


# What those see who may see truths


def _everybodys(store: Store, secret: bytes, account: Account, asked: Asked) -> Callable[[Any], Labels]:
    names = label_names(asked.protocol.values)
    reviewed = _reviewed(store, secret, asked)
    readers: list[str] = []

    def labels(row: Any) -> Labels:
        found = {FINAL: _truth_info(row, names)} if row.outcome in FINISHED else {}
        metas = reviewed.get(row.id, {})
        readers.extend(spoken_reader(account, number) for number in range(len(readers) + 1, row.reads + 1))
        file = f"{row.id}{LABEL_SUFFIX}"
        for number in range(1, row.reads + 1):
            info = {"name": file, "version": number, "client_id": readers[number - 1]}
            found[f"version_{number}"] = {**info, "segmentationMeta": metas[number]} if number in metas else info
        return found

    return labels


def _reviewed(store: Store, secret: bytes, asked: Asked) -> dict[str, dict[int, dict[str, Any]]]:
    """What reviewers said of the reads that count, by case and number of the version."""
    reviews = newest_reviews(store, protocol=asked.protocol.name)
    accounts = schema.accounts
    with store.engine.connect() as connection:
        people = {row.id: row.name for row in connection.execute(sa.select(accounts.c.id, accounts.c.name))}
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for case in {review.case for review in reviews.values()}:
        newest = {read.reader: read.id for read in store.latest_reads(case)}
        for number, reader in enumerate(keyed_order(secret, case, newest), 1):
            review = reviews.get(newest[reader])
            if review is not None:
                found.setdefault(case, {})[number] = segmentation_meta(review, people[review.reviewer])
    return found


def _truth_info(row: Any, names: Mapping[str, Any]) -> dict[str, Any]:
    settled = (Settled.CONSENSUS if row.outcome == Outcome.AGREED else Settled.ADJUDICATION).value
    return label_info(row.id, {**names, "client_id": settled, "settled": settled})


# Prelabels


def _originals(store: Store, account: Account, asked: Asked, read: set[str] | None) -> dict[str, Any]:
    """The rows of the newest prelabels the caller may see, by case; `read` are the cases a reader has read."""
    policy, reader = asked.protocol.prelabels, Role.READER in account.roles
    if reader and policy is PrelabelPolicy.NEVER:
        return {}
    table, cases, seats = schema.prelabels, schema.cases, schema.seats
    query = (
        sa.select(table)
        .join(cases, cases.c.id == table.c.case)
        .where(cases.c.protocol == asked.protocol.name)
        .order_by(table.c.created)
    )
    if reader:
        mine = sa.and_(seats.c.case == table.c.case, seats.c.since_version == asked.since_version)
        query = query.where(sa.exists().where(mine, seats.c.reader == account.id))
    with store.engine.connect() as connection:
        newest = {row.case: row for row in connection.execute(query)}
    if not reader or policy is PrelabelPolicy.ALWAYS:
        return newest
    return {case: row for case, row in newest.items() if read is not None and case in read}


def _original(store: Store, asked: Asked, row: Any) -> dict[str, Any]:
    voxels = row.voxels or counted(store, store.case(row.case), Prelabel(**row._mapping))
    return label_info(row.case, {**label_names(names_present(asked.protocol, voxels)), "model": row.model})
