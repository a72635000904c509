"""What the store holds, as frozen values: cases, seats, reads, prelabels, disputes, adjudications and truths."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from labeling_protocols.geometry import Geometry


class Role(StrEnum):
    """What an account may do."""

    ADMINISTRATOR = "administrator"
    ADJUDICATOR = "adjudicator"
    READER = "reader"
    ENGINEER = "engineer"
    VIEWER = "viewer"


@dataclass(frozen=True, kw_only=True)
class Account:
    """A person who signs in; `id` is the pseudonym that stands in reads, never the name."""

    id: str
    name: str
    roles: frozenset[Role]
    disabled: bool
    groups: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Case:
    """One image series to label.

    `patient` is the site's pseudonym; `image` the digest of a .nii.gz blob with the voxels and a bare header;
    `series` the de-identified DICOM Series Instance UID where the case came from DICOM. `known_truth`, the digest of a
    label, makes it a calibration case: every reader reads it, and it never becomes truth or dispute.
    """

    id: str
    protocol: str
    patient: str
    image: str
    geometry: Geometry
    modality: str
    series: str | None
    created: datetime
    known_truth: str | None = None


class Outcome(StrEnum):
    """How far a case is."""

    OPEN = "open"  # seats are unread
    UNJUDGED = "unjudged"  # every seat is read, the verdict is not made yet
    AGREED = "agreed"
    DISPUTED = "disputed"
    SETTLED = "settled"  # by adjudication


class SeatState(StrEnum):
    FREE = "free"
    CLAIMED = "claimed"
    READ = "read"


class Returned(StrEnum):
    """Why a reader has a seat no longer."""

    LAPSED = "lapsed"
    SKIPPED = "skipped"
    REASSIGNED = "reassigned"


@dataclass(frozen=True, kw_only=True)
class Seat:
    """A reader's place on a case; a claimed seat is given to somebody else after `lease_until`.

    `group` names who may take it ("" for any reader); `opened` is when the reader was last given the case.
    """

    case: str
    place: int
    group: str
    reader: str | None
    state: SeatState
    opened: datetime | None
    lease_until: datetime | None


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """How a read was made.

    `client` is the program it came from, `seconds` the time the reader spent on this revision, `prelabel_model` the
    model version whose prelabel there was for the case, and `prelabel_shown` whether the reader had been given it.
    """

    client: str = ""
    seconds: float | None = None
    prelabel_model: str | None = None
    prelabel_shown: bool = False


@dataclass(frozen=True, kw_only=True)
class Read:
    """One immutable save of one reader's label of one case under one protocol version.

    `voxels` and `volumes_ml` go by structure; a withdrawn revision stays and does not count.
    """

    id: int
    case: str
    reader: str
    protocol_version: int
    revision: int
    label: str
    voxels: dict[str, int]
    volumes_ml: dict[str, float]
    provenance: Provenance
    created: datetime
    withdrawn: bool = False


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one reader has done, or is doing, on one case; figures are of the newest revision."""

    case: str
    state: SeatState
    opened: datetime | None
    lease_until: datetime | None
    revision: int | None = None
    saved: datetime | None = None
    seconds: float | None = None  # over all revisions


@dataclass(frozen=True, kw_only=True)
class Prelabel:
    """What a model proposed for a case; kept apart from reads."""

    case: str
    model: str
    label: str
    voxels: dict[str, int]
    created: datetime


@dataclass(frozen=True, kw_only=True)
class Review:
    """What a reviewer said of a read in his viewer; it decides nothing."""

    case: str
    read: int
    reviewer: str
    status: str
    level: str
    comment: str
    created: datetime


@dataclass(frozen=True, kw_only=True)
class PairAgreement:
    """Agreement of two reads on one structure.

    Dice is None where the structure is not outlined; HD95 is None there, and where a reader left the structure out. F1
    is of boxes and points, None where neither is asked for.
    """

    structure: str
    reader_a: str
    reader_b: str
    dice: float | None = None
    hd95_mm: float | None = None
    f1: float | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the reads of a case say together; `reasons` are empty for a consensus."""

    pairs: tuple[PairAgreement, ...]
    reasons: tuple[str, ...]
    severity: float

    @property
    def agreed(self) -> bool:
        return not self.reasons


@dataclass(frozen=True, kw_only=True)
class Dispute:
    """A case whose reads disagree beyond the protocol's limits and which nobody has settled."""

    case: str
    protocol: str
    reads: tuple[Read, ...]
    verdict: Verdict
    since: datetime


@dataclass(frozen=True, kw_only=True)
class Adjudication:
    """A signed human decision on a dispute.

    `choice` is the pseudonym of the reader whose outline was taken, or 'majority'; `reads` are the ids it was based on;
    `signature` is the site's Ed25519 signature (hex) over the canonical JSON of all the other fields.
    """

    id: int
    case: str
    adjudicator: str
    choice: str
    rationale: str
    reads: tuple[int, ...]
    label: str
    created: datetime
    signature: str


class Settled(StrEnum):
    CONSENSUS = "consensus"
    ADJUDICATION = "adjudication"


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The label that counts for a case, computed from its reads or taken by an adjudication; never edited."""

    case: Case
    protocol_version: int
    settled: Settled
    label: str
    reads: tuple[int, ...]
    adjudication: int | None = None


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a protocol's cases are; calibration cases are counted apart."""

    cases: int
    calibration_cases: int = 0
    reads: int
    disputes: int
    truths: int
    by_reader: dict[str, int] = field(default_factory=dict)
