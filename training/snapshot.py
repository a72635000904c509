"""What a training learns from, for good: truths and images in, an immutable JSON list named by its content out.

A patient lies on one side of the split only, and in one fold (`snapshot_split.py`). Neither dates nor identifiers
enter. What is not known is not written, so that snapshots of earlier releases keep their names.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any

from labeling_protocols.blobs import Blobs
from labeling_protocols.geometry import Geometry
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Truth
from labeling_protocols.strata import Strata
from training.snapshot_split import HELD_OUT_SHARE, SnapshotError, fold_value, held_out_patients

__all__ = [
    "HELD_OUT_SHARE",
    "TRUTHS_MIN",
    "Exclusion",
    "Fold",
    "Snapshot",
    "SnapshotCase",
    "SnapshotError",
    "folds",
    "held_out_patients",
    "keep_snapshot",
    "make_snapshot",
    "open_snapshot",
]

TRUTHS_MIN = 4
_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class SnapshotCase:
    """One image with its truth, both as blob digests; `reads` and `adjudication` say where the truth came from.

    `fold_value`, in [0, 1), is its patient's place among folds; None in snapshots of earlier releases. `channels` are
    name and digest of each further image, in the protocol's order.
    """

    case: str
    patient: str
    image: str
    label: str
    settled: str
    reads: tuple[int, ...]
    adjudication: int | None
    geometry: Geometry
    held_out: bool
    strata: Strata = field(default_factory=Strata)
    fold_value: float | None = None
    channels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Exclusion:
    """A case that does not take part, and why."""

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

    @property
    def judged_on(self) -> str:
        """The cases that a model is judged on, in words: without any held out, those of a cross-validation."""
        return "held-out cases" if self.held_out else "cases, each by the fold's network that had not learned from it"

    def as_json(self) -> str:
        """Canonical JSON: equal snapshots give equal text."""
        stored = {
            "protocol": self.protocol,
            "protocol_version": self.protocol_version,
            "protocol_digest": self.protocol_digest,
            "cases": [_case_as_json(case) for case in self.cases],
            "exclusions": [asdict(exclusion) for exclusion in self.exclusions],
        }
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


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One of several ways to train on some patients of the training side and look at the others; numbered from 1."""

    number: int
    training: tuple[SnapshotCase, ...]
    validation: tuple[SnapshotCase, ...]


def make_snapshot(
    protocol: Protocol,
    truths: Iterable[Truth],
    *,
    secret: bytes,
    since_version: int | None = None,
    excluded: Mapping[str, str] = _NONE,
    decided: Mapping[str, bool] = _NONE,
    held_out_share: float = HELD_OUT_SHARE,
) -> Snapshot:
    """The snapshot of these truths; raises `SnapshotError` where they are too few, or of one patient only.

    Truths of protocol versions before `since_version` (this version itself where it is not given) or after this one are
    left out, and so are the cases of `excluded`, which says why, by case. `decided` says which patients are held out
    already, and `held_out_share` how many of the others are to be, as `snapshot_split.held_out_patients` takes them.
    """
    since = protocol.version if since_version is None else since_version
    reasons = dict(excluded)
    taking = []
    for truth in sorted(truths, key=lambda truth: truth.case.id):
        if not since <= truth.protocol_version <= protocol.version:
            reasons.setdefault(truth.case.id, f"read under protocol version {truth.protocol_version}")
        if lacking := [name for name in protocol.channels[1:] if name not in truth.case.channels]:
            reasons.setdefault(truth.case.id, f"it lacks channel {', '.join(lacking)}")
        if truth.case.id not in reasons:
            taking.append(truth)
    if len(taking) < TRUTHS_MIN:
        left_out = f", and {len(reasons)} left out" if reasons else ""
        raise SnapshotError(
            f"protocol {protocol.name} version {protocol.version} has {len(taking)} settled case(s){left_out};"
            f" at least {TRUTHS_MIN} are needed to train and to hold some out. Nothing was trained."
        )
    patients = {truth.case.patient for truth in taking}
    held_out = held_out_patients(patients, secret=secret, share=held_out_share, decided=decided)
    return Snapshot(
        protocol=protocol.name,
        protocol_version=protocol.version,
        protocol_digest=protocol.digest,
        cases=tuple(
            _case(truth, protocol, truth.case.patient in held_out, fold_value(truth.case.patient, secret))
            for truth in taking
        ),
        exclusions=tuple(Exclusion(case=case, reason=reasons[case]) for case in sorted(reasons)),
    )


def folds(snapshot: Snapshot, count: int) -> tuple[Fold, ...]:
    """The training side in `count` parts, each the validation cases of one fold; held-out cases are in none.

    A patient lies in one part, which is the same in every snapshot with as many folds. Raises `SnapshotError` where a
    part has no patient: parts are drawn, not dealt out, since dealing would move patients as cases are added.
    """
    if count < 2:
        raise SnapshotError(f"found {count} folds; cross-validation needs at least 2. Nothing was trained.")
    parts = _parts(snapshot, count)
    if not all(parts):
        most = next((fewer for fewer in range(count - 1, 1, -1) if all(_parts(snapshot, fewer))), None)
        rather = f"with {most} each has some" if most else "no number of folds gives each some"
        raise SnapshotError(
            f"{sum(not part for part in parts)} of {count} folds have no patient; {rather}. Nothing was trained."
        )
    return tuple(_fold(snapshot, number, part) for number, part in enumerate(parts, start=1))


def keep_snapshot(snapshot: Snapshot, blobs: Blobs) -> str:
    """Store the snapshot durably under its digest and return that."""
    return blobs.put(snapshot.as_json().encode())


def open_snapshot(digest: str, blobs: Blobs) -> Snapshot:
    """The snapshot of this digest, re-hashed; raises `SnapshotError` where the blob holds something else."""
    content = blobs.get(digest)
    try:
        return Snapshot.from_json(content.decode())
    except (ValueError, KeyError, TypeError) as error:
        raise SnapshotError(f"blob {digest} is no snapshot of this release or an earlier one") from error


def _parts(snapshot: Snapshot, count: int) -> list[list[SnapshotCase]]:
    parts: list[list[SnapshotCase]] = [[] for _ in range(count)]
    for case in snapshot.training:
        if case.fold_value is None:
            raise SnapshotError(
                "an earlier release took this snapshot and knew no folds; take a new one. Nothing was trained."
            )
        parts[int(case.fold_value * count)].append(case)
    return parts


def _fold(snapshot: Snapshot, number: int, validation: list[SnapshotCase]) -> Fold:
    apart = {case.case for case in validation}
    training = tuple(case for case in snapshot.training if case.case not in apart)
    return Fold(number=number, training=training, validation=tuple(validation))


def _case(truth: Truth, protocol: Protocol, held_out: bool, place: float) -> SnapshotCase:
    digests = dict(zip(truth.case.channels, truth.case.channel_images, strict=True))
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
        strata=truth.case.strata,
        fold_value=place,
        channels=tuple((name, digests[name]) for name in protocol.channels[1:]),
    )


def _case_as_json(case: SnapshotCase) -> dict[str, Any]:
    stored = {one.name: getattr(case, one.name) for one in fields(case)}
    stored["geometry"] = case.geometry.as_json()
    stored["strata"] = case.strata.as_json() if case.strata.known else None
    not_known = [name for name in ("strata", "fold_value", "channels") if stored[name] in (None, ())]
    return {name: value for name, value in stored.items() if name not in not_known}


def _case_from_json(stored: dict[str, Any]) -> SnapshotCase:
    parsed = {
        "reads": tuple(stored["reads"]),
        "geometry": Geometry.from_json(stored["geometry"]),
        "strata": Strata.from_json(stored.get("strata")),
        "channels": tuple((name, digest) for name, digest in stored.get("channels", ())),
    }
    return SnapshotCase(**{**stored, **parsed})
