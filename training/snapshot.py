"""What a training learns from, for good: truths and images in, an immutable JSON list named by its content out.

A patient lies on one side of the split only, decided by a keyed hash of the site's pseudonym: it does not move when
cases are added, and cannot be guessed or chosen from outside. Neither dates nor identifiers enter.
"""

import hashlib
import hmac
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from labeling_protocols.blobs import Blobs
from labeling_protocols.geometry import Geometry
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Truth

HELD_OUT_SHARE = 0.2
TRUTHS_MIN = 4


class SnapshotError(ValueError):
    """Truths that no training can be made of: what was found, what was expected."""


@dataclass(frozen=True, kw_only=True)
class SnapshotCase:
    """One image with its truth, both as blob digests; `reads` and `adjudication` say where the truth came from."""

    case: str
    patient: str
    image: str
    label: str
    settled: str
    reads: tuple[int, ...]
    adjudication: int | None
    geometry: Geometry
    held_out: bool


@dataclass(frozen=True, kw_only=True)
class Exclusion:
    """A case with a truth that does not take part, and why."""

    case: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Cases in the order of their ids, under one protocol version."""

    protocol: str
    protocol_version: int
    protocol_digest: str
    cases: tuple[SnapshotCase, ...]
    exclusions: tuple[Exclusion, ...]

    @property
    def training(self) -> tuple[SnapshotCase, ...]:
        return tuple(case for case in self.cases if not case.held_out)

    @property
    def held_out(self) -> tuple[SnapshotCase, ...]:
        return tuple(case for case in self.cases if case.held_out)

    def as_json(self) -> str:
        """Canonical JSON: equal snapshots give equal text."""
        stored = {**asdict(self), "cases": [{**asdict(c), "geometry": c.geometry.as_json()} for c in self.cases]}
        return json.dumps(stored, sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.as_json().encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str) -> "Snapshot":
        stored = json.loads(text)
        return cls(
            **{
                **stored,
                "cases": tuple(_case_from_json(case) for case in stored["cases"]),
                "exclusions": tuple(Exclusion(**exclusion) for exclusion in stored["exclusions"]),
            }
        )


def make_snapshot(protocol: Protocol, truths: Iterable[Truth], *, secret: bytes) -> Snapshot:
    """The snapshot of these truths; raises `SnapshotError` where they are too few, or of one patient only."""
    known = sorted(truths, key=lambda truth: truth.case.id)
    current = [truth for truth in known if truth.protocol_version == protocol.version]
    if len(current) < TRUTHS_MIN:
        raise SnapshotError(
            f"protocol {protocol.name} version {protocol.version} has {len(current)} settled case(s);"
            f" at least {TRUTHS_MIN} are needed to train and to hold some out. Nothing was trained."
        )
    held_out = held_out_patients({truth.case.patient for truth in current}, secret=secret)
    return Snapshot(
        protocol=protocol.name,
        protocol_version=protocol.version,
        protocol_digest=protocol.digest,
        cases=tuple(_case(truth, truth.case.patient in held_out) for truth in current),
        exclusions=tuple(
            Exclusion(case=truth.case.id, reason=f"read under protocol version {truth.protocol_version}")
            for truth in known
            if truth.protocol_version != protocol.version
        ),
    )


def held_out_patients(patients: Iterable[str], *, secret: bytes, share: float = HELD_OUT_SHARE) -> frozenset[str]:
    """The patients whose hash falls below `share`.

    Where that leaves a side empty, the patient with the lowest hash is held out, or the one with the highest is trained
    on; only such a stand-in can change sides when patients are added. Raises `SnapshotError` for fewer than two.
    """
    by_hash = sorted((_hash(patient, secret), patient) for patient in set(patients))
    if len(by_hash) < 2:
        raise SnapshotError(
            f"found truths of {len(by_hash)} patient(s); a split by patient needs at least two. Nothing was trained."
        )
    below = sum(value < share for value, _ in by_hash)
    count = min(max(below, 1), len(by_hash) - 1)
    return frozenset(patient for _, patient in by_hash[:count])


def keep_snapshot(snapshot: Snapshot, blobs: Blobs) -> str:
    """Store the snapshot durably under its digest and return that."""
    return blobs.put(snapshot.as_json().encode())


def open_snapshot(digest: str, blobs: Blobs) -> Snapshot:
    """The snapshot of this digest, re-hashed."""
    return Snapshot.from_json(blobs.get(digest).decode())


def _hash(patient: str, secret: bytes) -> float:
    """A number in [0, 1) that depends on the patient's pseudonym and the site's key alone."""
    digest = hmac.new(secret, b"split/" + patient.encode(), hashlib.sha256).digest()
    return int.from_bytes(digest[:7]) / 2**56


def _case(truth: Truth, held_out: bool) -> SnapshotCase:
    return SnapshotCase(
        case=truth.case.id,
        patient=truth.case.patient,
        image=truth.case.image,
        label=truth.label,
        settled=truth.settled.value,
        reads=truth.reads,
        adjudication=truth.adjudication,
        geometry=truth.case.geometry,
        held_out=held_out,
    )


def _case_from_json(stored: dict[str, Any]) -> SnapshotCase:
    return SnapshotCase(
        **{**stored, "reads": tuple(stored["reads"]), "geometry": Geometry.from_json(stored["geometry"])}
    )
