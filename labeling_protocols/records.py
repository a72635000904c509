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


@dataclass(frozen=True, kw_only=True)
class Case:
    """One image series to label.

    `patient` is the site's pseudonym; `image` the digest of a .nii.gz blob with the voxels and a bare header;
    `series` the de-identified DICOM Series Instance UID where the case came from DICOM.
    """

    id: str
    protocol: str
    patient: str
    image: str
    geometry: Geometry
    modality: str
    series: str | None
    created: datetime


class SeatState(StrEnum):
    CLAIMED = "claimed"
    READ = "read"


@dataclass(frozen=True, kw_only=True)
class Seat:
    """A reader's place on a case; a claimed seat is given to somebody else after `lease_until`."""

    case: str
    reader: str
    state: SeatState
    lease_until: datetime


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """How a read was made: the program it came from and the model version of the prelabel it began from."""

    client: str = ""
    prelabel_model: str | None = None


@dataclass(frozen=True, kw_only=True)
class Read:
    """One immutable save of one reader's label of one case under one protocol version."""

    id: int
    case: str
    reader: str
    protocol_version: int
    revision: int
    label: str
    voxels: dict[str, int]
    provenance: Provenance
    created: datetime


@dataclass(frozen=True, kw_only=True)
class Prelabel:
    """What a model proposed for a case; kept apart from reads."""

    case: str
    model: str
    label: str
    created: datetime


@dataclass(frozen=True, kw_only=True)
class PairAgreement:
    """Agreement of two reads on one structure; HD95 is None where a reader left the structure out."""

    structure: str
    reader_a: str
    reader_b: str
    dice: float
    hd95_mm: float | None


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
    """How far a protocol's cases are."""

    cases: int
    reads: int
    disputes: int
    truths: int
    by_reader: dict[str, int] = field(default_factory=dict)
