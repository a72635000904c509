"""A snapshot's digest in; whether the store bears out what it says, and what changed since it was taken, out."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from labeling_protocols.adjudications import adjudications, signature_holds
from labeling_protocols.assessment import assess
from labeling_protocols.blobs import Blobs, DamagedBlobError
from labeling_protocols.consensus import consensus
from labeling_protocols.disputes import standing_over
from labeling_protocols.label_codec import encode_label
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import DisputeState, Outcome, Read, Settled
from labeling_protocols.settlement import judge, truth
from labeling_protocols.store import Store, UnknownError
from training.snapshot import Snapshot, SnapshotCase, open_snapshot
from training.snapshot_diff import Change, What, settled_by, strata_change

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Verification:
    """`wrong` is what the store does not bear out, `changed` what happened since the snapshot was taken.

    `blobs` were hashed again, and of `truths` cases the truth is what it comes to again.
    """

    wrong: tuple[str, ...]
    changed: tuple[Change, ...]
    blobs: int
    truths: int


def verify(
    store: Store, digest: str, public_key: Ed25519PublicKey, progress: Progress = lambda done, total: None
) -> Verification:
    """Re-hash every blob of a snapshot, compute its truths again, and say what changed since.

    A consensus is formed again from the reads the snapshot names; an adjudication has to be the signed one it names.
    `progress(done, total)` counts cases.
    """
    if damage := _damage(store.blobs, digest):
        words = f"the snapshot itself is {damage}; restore it from a backup"
        return Verification(wrong=(words,), changed=(), blobs=1, truths=0)
    snapshot = open_snapshot(digest, store.blobs)
    protocol, wrong = _protocol(store, snapshot)
    changed, blobs, truths = list(_since_of_all(store, snapshot)), 1, 0
    for done, case in enumerate(snapshot.cases, start=1):
        checked = _Checked(store, protocol, case, public_key)
        wrong += [f"case {case.case}: {words}" for words in checked.wrong]
        blobs += checked.blobs
        truths += not checked.wrong
        changed += _since(store, case)
        progress(done, len(snapshot.cases))
    return Verification(wrong=tuple(wrong), changed=tuple(changed), blobs=blobs, truths=truths)


class _Checked:
    """One case of a snapshot, held against the store; without its protocol version no consensus can be formed."""

    def __init__(
        self, store: Store, protocol: Protocol | None, case: SnapshotCase, public_key: Ed25519PublicKey
    ) -> None:
        self._store, self._protocol, self._case, self._public_key = store, protocol, case, public_key
        self.blobs = 0
        self.wrong = list(self._found())

    def _found(self) -> Iterator[str]:
        known = {read.id: read for read in self._store.reads(self._case.case)}
        reads = [known[number] for number in self._case.reads if number in known]
        blobs = {"image": self._case.image, "label": self._case.label}
        blobs |= {f"channel {name}": digest for name, digest in self._case.channels}
        blobs |= {f"label of read {read.id}": read.label for read in reads}
        self.blobs = len(blobs)
        lacking = [
            f"its {what} is {damage}" for what, one in blobs.items() if (damage := _damage(self._store.blobs, one))
        ]
        if len(reads) < len(self._case.reads):
            lacking.append(f"{len(self._case.reads) - len(reads)} of the reads that settled it are not there")
        if lacking:
            yield from lacking
        elif self._case.settled == Settled.ADJUDICATION:
            yield from self._adjudicated()
        elif self._protocol is not None:
            yield from self._agreed(self._protocol, reads)

    def _agreed(self, protocol: Protocol, reads: list[Read]) -> Iterator[str]:
        """The reads have to agree, and to the label that stands in the snapshot."""
        labels = {read.reader: self._store.label(read.label) for read in sorted(reads, key=lambda read: read.reader)}
        if not assess(protocol, labels).agreed:
            yield "its reads do not agree, and it is said to be their consensus"
            return
        formed = encode_label(consensus(protocol, list(labels.values()))).content
        if hashlib.sha256(formed).hexdigest() != self._case.label:
            yield "its label is not the consensus of its reads"

    def _adjudicated(self) -> Iterator[str]:
        by_id = {one.id: one for one in adjudications(self._store, self._case.case)}
        decision = by_id.get(self._case.adjudication or 0)
        if decision is None:
            yield f"adjudication {self._case.adjudication} is not there"
        elif not signature_holds(decision, self._public_key):
            yield f"the signature of adjudication {decision.id} does not hold"
        elif (decision.label, decision.reads) != (self._case.label, self._case.reads):
            yield f"adjudication {decision.id} decided another label, or between other reads"


def _damage(blobs: Blobs, digest: str) -> str | None:
    try:
        blobs.get(digest)
    except FileNotFoundError:
        return "missing"
    except DamagedBlobError:
        return "damaged"
    return None


def _protocol(store: Store, snapshot: Snapshot) -> tuple[Protocol | None, list[str]]:
    """The protocol version the snapshot names, and what is wrong with it."""
    named = f"version {snapshot.protocol_version} of protocol {snapshot.protocol}"
    try:
        protocol = store.protocol(snapshot.protocol, snapshot.protocol_version)
    except UnknownError:
        return None, [f"{named} is not there"]
    if protocol.digest != snapshot.protocol_digest:
        return protocol, [f"{named} says something else than when the snapshot was taken"]
    return protocol, []


def _since_of_all(store: Store, snapshot: Snapshot) -> Iterator[Change]:
    """What happened since to the protocol, and what was settled that the snapshot does not know."""
    newest = max((one.version for one in store.protocols() if one.name == snapshot.protocol), default=0)
    if newest > snapshot.protocol_version:
        words = f"it is at version {newest} now, and was at {snapshot.protocol_version}"
        yield Change(what=What.PROTOCOL, words=words)
    known = {case.case for case in snapshot.cases} | {exclusion.case for exclusion in snapshot.exclusions}
    judge(store, snapshot.protocol)
    settled = store.cases(snapshot.protocol, (Outcome.AGREED, Outcome.SETTLED))
    if more := sum(case.id not in known for case in settled):
        yield Change(what=What.ADDED, words=f"{more} case(s) were settled since")


def _since(store: Store, case: SnapshotCase) -> Iterator[Change]:
    try:
        now = truth(store, case.case)
    except UnknownError:
        yield Change(what=What.REMOVED, case=case.case, words="it is not there any more")
        return
    except (DamagedBlobError, FileNotFoundError) as error:
        words = f"what it is now cannot be computed ({type(error).__name__}); see overread store verify"
        yield Change(what=What.TRUTH, case=case.case, words=words)
        return
    if now is None:
        yield Change(what=What.TRUTH, case=case.case, words=_why_none(store, case.case))
        return
    if (now.label, settled_by(now)) != (case.label, settled_by(case)):
        label = "the same label" if now.label == case.label else "another label"
        words = f"{settled_by(case)} → {settled_by(now)}, {label}"
        yield Change(what=What.TRUTH, case=case.case, words=words)
    yield from strata_change(case.case, case.strata, now.case.strata)


def _why_none(store: Store, case_id: str) -> str:
    standing = standing_over(store, case_id)
    if standing is not None and standing.state is DisputeState.REOPENED:
        return "it was reopened, and is settled by nothing yet"
    if standing is not None and standing.state in (DisputeState.OPEN, DisputeState.CLAIMED, DisputeState.ESCALATED):
        reopened = f" in round {standing.round}, after it was reopened" if standing.round > 1 else ""
        return f"it is in dispute{reopened}"
    return "it has no truth now: a read was withdrawn, or more or other reads are asked"
