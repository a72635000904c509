"""From a result back to those who read the cases its model learned from, and from a model version to what it read.

Each link is looked up by the digest or number that the one before it carries, and checked where it can be: a bundle's
signature, a gate report's digest, a snapshot's. What cannot be found any more is said, and the rest is told.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from apps.endpoint.results import Delivery, Result, deliveries, results
from labeling_protocols import schema
from labeling_protocols.blobs import DamagedBlobError
from labeling_protocols.store import Store
from training.bundle import BundleError
from training.model_versions import ModelVersion
from training.registry import Registry, ReleaseError
from training.snapshot import Snapshot, SnapshotError, open_snapshot

_IN_ONE_QUERY = 500


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What a snapshot's truths came from; `readers` and `adjudicators` are pseudonyms with how much is theirs."""

    snapshot: str
    protocol: str
    protocol_version: int
    cases: int
    held_out: int
    settled: dict[str, int]
    reads: int
    readers: dict[str, int]
    adjudicators: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Traced:
    """A result and what stands behind it; `wanting` says in words which link is missing or does not hold."""

    result: Result
    deliveries: tuple[Delivery, ...]
    version: ModelVersion | None
    gate: str
    learned: Learned | None
    wanting: tuple[str, ...]


def trace(store: Store, registry: Registry, uid: str) -> list[Traced]:
    """Behind each result of a study, a series, or of the object of this UID, oldest first."""
    of_uid = [one for one in results(store) if uid in (one.study, one.series) or f"{uid}.dcm" in one.files]
    return [_traced(store, registry, one) for one in of_uid]


def read_by(store: Store, model: str) -> list[Result]:
    """Every result of a model version, named as results carry it ("hippocampus-segmentation 1.0.3")."""
    return [one for one in results(store) if one.model == model]


def _traced(store: Store, registry: Registry, one: Result) -> Traced:
    wanting: list[str] = []
    version = _version(registry, one, wanting) if one.model else None
    gate = _gate(registry, version, wanting) if version is not None else ""
    learned = _learned(store, version, wanting) if version is not None else None
    return Traced(
        result=one,
        deliveries=tuple(deliveries(store, one.id)),
        version=version,
        gate=gate,
        learned=learned,
        wanting=tuple(wanting),
    )


def _version(registry: Registry, one: Result, wanting: list[str]) -> ModelVersion | None:
    found = [version for version in registry.versions(one.protocol) if version.bundle_sha256 == one.bundle]
    if not found:
        wanting.append(f"no model version of {one.protocol or 'any protocol'} has the bundle {one.bundle[:12]}")
        return None
    try:
        registry.bundle(found[0])
    except BundleError as error:
        wanting.append(f"bundle {one.bundle[:12]}: {error}")
    return found[0]


def _gate(registry: Registry, version: ModelVersion, wanting: list[str]) -> str:
    try:
        decision = registry.gate_report(version).decision
    except (ReleaseError, OSError, ValueError) as error:
        wanting.append(str(error))
        return ""
    said = "passed" if decision.passed else f"refused: {'; '.join(decision.reasons)}"
    return f"{said} ({version.override})" if version.override else said


def _learned(store: Store, version: ModelVersion, wanting: list[str]) -> Learned | None:
    try:
        snapshot = open_snapshot(version.snapshot, store.blobs)
    except (SnapshotError, DamagedBlobError, OSError) as error:
        wanting.append(f"snapshot {version.snapshot[:12]} cannot be opened: {error}")
        return None
    reads = {number for case in snapshot.cases for number in case.reads}
    readers = _whose(store, schema.reads, "reader", reads)
    if sum(readers.values()) < len(reads):
        wanting.append(f"{len(reads) - sum(readers.values())} of {len(reads)} reads are not in this store")
    return _told(store, snapshot, version.snapshot, len(reads), readers)


def _told(store: Store, snapshot: Snapshot, digest: str, reads: int, readers: dict[str, int]) -> Learned:
    signed = {case.adjudication for case in snapshot.cases if case.adjudication is not None}
    return Learned(
        snapshot=digest,
        protocol=snapshot.protocol,
        protocol_version=snapshot.protocol_version,
        cases=len(snapshot.cases),
        held_out=len(snapshot.held_out),
        settled=dict(Counter(case.settled for case in snapshot.cases)),
        reads=reads,
        readers=readers,
        adjudicators=_whose(store, schema.adjudications, "adjudicator", signed),
    )


def _whose(store: Store, table: sa.Table, column: str, numbers: Iterable[int]) -> dict[str, int]:
    """How many of these rows are whose, most first."""
    wanted, found = sorted(numbers), Counter[str]()
    with store.engine.connect() as connection:
        for first in range(0, len(wanted), _IN_ONE_QUERY):
            query = sa.select(table.c[column]).where(table.c.id.in_(wanted[first : first + _IN_ONE_QUERY]))
            found.update(connection.execute(query).scalars())
    return dict(found.most_common())
