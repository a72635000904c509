"""The snapshots of a site: a protocol in, its truths of this moment kept and listed; part of a digest in, which it is.

On which side of the split a patient is, is decided by the first snapshot with a case of theirs and kept with it, so
that it never changes: not as cases come or go, and not for a patient who had to stand in for an empty side.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

import sqlalchemy as sa

from labeling_protocols import audit, schema
from labeling_protocols.audit import Action
from labeling_protocols.blobs import Blobs, DamagedBlobError
from labeling_protocols.records import Case, Truth
from labeling_protocols.seats import lock_worklist
from labeling_protocols.settlement import truths
from labeling_protocols.store import Store, now
from training.snapshot import HELD_OUT_SHARE, Snapshot, SnapshotError, keep_snapshot, make_snapshot

Progress = Callable[[int, int], None]

_SERVER = "server"
_NOBODY: Mapping[str, str] = MappingProxyType({})
_REASON_MAX = 200  # characters
_PREFIX = re.compile(r"[0-9a-f]{4,64}\Z")
_WHOLE = 64
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One snapshot of the site: how many cases are in it, who took it and when."""

    digest: str
    protocol: str
    protocol_version: int
    cases: int
    actor: str
    created: datetime


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A snapshot that is kept now; `is_new` unless the same was taken before."""

    digest: str
    snapshot: Snapshot
    is_new: bool


def take(
    store: Store,
    protocol_name: str,
    *,
    secret: bytes,
    excluded: Mapping[str, str] = _NOBODY,
    held_out_share: float = HELD_OUT_SHARE,
    actor: str = _SERVER,
    progress: Progress = lambda done, total: None,
) -> Taken:
    """Keep and list the snapshot of a protocol's truths as they are now.

    `excluded` says, by case, why somebody leaves it out; calibration cases, those read under an older version only and
    those whose image or label is missing or damaged are left out too. Of patients no snapshot had yet `held_out_share`
    are held out. `progress(done, total)` counts the truths whose blobs were hashed again. Raises `SnapshotError`,
    having kept nothing, and `UnknownError` for an unknown protocol.
    """
    asked = store.asked(protocol_name)
    cases = store.cases(protocol_name)
    reasons = _by_hand(excluded, cases)
    known = truths(store, protocol_name)
    settled = {truth.case.id for truth in known}
    for case in cases:
        if case.known_truth is not None:
            reasons.setdefault(case.id, "a calibration case, whose truth was known before")
    for case_id, version in _read_before(store, protocol_name, asked.since_version).items():
        if case_id not in settled:
            reasons.setdefault(case_id, f"read under protocol version {version} only, which asked something else")
    for done, truth in enumerate(known, start=1):
        if truth.case.id not in reasons and (reason := _unusable(store.blobs, truth)):
            reasons[truth.case.id] = reason
        progress(done, len(known))
    with store.writing() as connection:
        lock_worklist(connection, protocol_name)  # two that are taken at once decide no patient's side differently
        decided = _sides(connection, protocol_name)
        snapshot = make_snapshot(
            asked.protocol,
            known,
            secret=secret,
            since_version=asked.since_version,
            excluded=reasons,
            decided=decided,
            held_out_share=held_out_share,
        )
        digest = keep_snapshot(snapshot, store.blobs)
        is_new = _list(connection, digest, snapshot, decided, actor)
    return Taken(digest=digest, snapshot=snapshot, is_new=is_new)


def listed(store: Store, protocol_name: str | None = None) -> list[Listed]:
    """The snapshots of the site, or of one protocol, oldest first."""
    table = schema.snapshots
    query = sa.select(table).order_by(table.c.created, table.c.digest)
    if protocol_name is not None:
        query = query.where(table.c.protocol == protocol_name)
    with store.engine.connect() as connection:
        return [Listed(**row._mapping) for row in connection.execute(query)]


def find(store: Store, part: str) -> str:
    """The digest that begins like this, of the snapshots listed; a whole one may be of before there was a list.

    Raises `SnapshotError` where there is none, or more than one.
    """
    if not _PREFIX.match(part):
        raise SnapshotError("a snapshot is named by the first characters of its digest: 4 to 64 of 0-9 and a-f")
    found = [one.digest for one in listed(store) if one.digest.startswith(part)]
    if not found and len(part) == _WHOLE and part in store.blobs:
        return part
    if len(found) != 1:
        names = f": {', '.join(digest[:12] for digest in found[:_SHOWN])}" if found else ""
        raise SnapshotError(f"{len(found)} snapshots begin with {part}{names}; one was expected")
    return found[0]


def _by_hand(excluded: Mapping[str, str], cases: list[Case]) -> dict[str, str]:
    known = {case.id for case in cases}
    if strange := sorted(excluded.keys() - known):
        raise SnapshotError(f"{len(strange)} case(s) to leave out are none of this protocol's. No snapshot was taken.")
    reasons = {case: reason.strip() for case, reason in excluded.items()}
    for case, reason in reasons.items():
        if not 0 < len(reason) <= _REASON_MAX:
            raise SnapshotError(
                f"leaving out case {case} needs a reason of 1 to {_REASON_MAX} characters; one of {len(reason)} was"
                " found. No snapshot was taken."
            )
    return reasons


def _read_before(store: Store, protocol_name: str, since_version: int) -> dict[str, int]:
    """The cases all of whose reads answer what an older version asked, and the newest of these versions."""
    reads, cases = schema.reads, schema.cases
    newest = sa.func.max(reads.c.protocol_version)
    query = sa.select(reads.c.case, newest).join(cases, cases.c.id == reads.c.case)
    query = query.where(cases.c.protocol == protocol_name).group_by(reads.c.case).having(newest < since_version)
    with store.engine.connect() as connection:
        return {case: version for case, version in connection.execute(query)}


def _unusable(blobs: Blobs, truth: Truth) -> str | None:
    """Why a truth cannot be learned from; None where image and label are there and are what they were."""
    channels = zip(truth.case.channels, truth.case.channel_images, strict=True)
    channels_of = ((f"channel {name}", digest) for name, digest in channels)
    for what, digest in (("image", truth.case.image), *channels_of, ("label", truth.label)):
        try:
            blobs.get(digest)
        except FileNotFoundError:
            return f"its {what} is missing"
        except DamagedBlobError:
            return f"its {what} is damaged"
    return None


def _sides(connection: sa.Connection, protocol_name: str) -> dict[str, bool]:
    table = schema.split_sides
    query = sa.select(table.c.patient, table.c.held_out).where(table.c.protocol == protocol_name)
    return {patient: held_out for patient, held_out in connection.execute(query)}


def _list(connection: sa.Connection, digest: str, snapshot: Snapshot, decided: Mapping[str, bool], actor: str) -> bool:
    """Add the snapshot to the list, with the sides it decides; whether it is new there."""
    table = schema.snapshots
    if connection.execute(sa.select(table.c.digest).where(table.c.digest == digest)).first() is not None:
        return False
    named = {"protocol": snapshot.protocol, "protocol_version": snapshot.protocol_version}
    row = {"digest": digest, **named, "cases": len(snapshot.cases), "actor": actor, "created": now()}
    connection.execute(sa.insert(table).values(row))
    sides = {case.patient: case.held_out for case in snapshot.cases if case.patient not in decided}
    if sides:
        of = {"protocol": snapshot.protocol, "snapshot": digest}
        rows = [{**of, "patient": patient, "held_out": held_out} for patient, held_out in sorted(sides.items())]
        connection.execute(sa.insert(schema.split_sides), rows)
    subject = f"{snapshot.protocol} {snapshot.protocol_version}"
    counts = {"cases": len(snapshot.cases), "excluded": len(snapshot.exclusions)}
    audit.append(connection, actor=actor, action=Action.SNAPSHOT_TAKEN, subject=subject, digest=digest, **counts)
    return True
