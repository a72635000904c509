"""What the store holds, as frozen values: cases, seats, reads, prelabels, disputes, adjudications and truths."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from labeling_protocols.geometry import Geometry
from labeling_protocols.strata import Strata

_PLACE = re.compile(r"\{(\d+)\}")
_IN_A_ROW = re.compile(r"\{\d+\}(?:(?:, | and )\{\d+\})+")


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
    label, makes it a calibration case: every reader reads it, and it never becomes truth or dispute. `strata` is what
    evaluation is broken down by. `channels` names further images of the same grid, registered with this one,
    `channel_images` and `channel_series` are their digests and series; `resampled` names those that lay on another
    grid before.
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
    strata: Strata = field(default_factory=Strata)
    channels: tuple[str, ...] = ()
    channel_images: tuple[str, ...] = ()
    channel_series: tuple[str | None, ...] = ()
    resampled: tuple[str, ...] = ()

    @property
    def images(self) -> tuple[str, ...]:
        """The digests of all channels, the first first."""
        return (self.image, *self.channel_images)

    @property
    def digest(self) -> str:
        """What names all that there is to see of the case: the image's digest where it has one."""
        if not self.channel_images:
            return self.image
        return hashlib.sha256("/".join(self.images).encode()).hexdigest()


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
    """Agreement of two reads on one structure (`agreement.py` says how each number is defined).

    Outline numbers are None where the structure is not outlined; distances are None there, and where one reader left
    the structure out, which counts as a miss. `volume_difference_ml` is a's volume less b's. `f1` and the counts are of
    findings: boxes and points, and outlined lesions where neither is asked for; None where there are none to count.
    """

    structure: str
    reader_a: str
    reader_b: str
    dice: float | None = None
    hd95_mm: float | None = None
    f1: float | None = None
    iou: float | None = None
    surface_dice: float | None = None
    average_surface_distance_mm: float | None = None
    volume_difference_ml: float | None = None
    findings_a: int | None = None
    findings_b: int | None = None
    findings_matched: int | None = None

    @property
    def missed(self) -> bool:
        """Whether one reader outlined what the other left out altogether."""
        return self.dice is not None and self.hd95_mm is None


class LesionKind(StrEnum):
    OUTLINE = "outline"  # a connected component of what any reader outlined
    BOX = "box"
    POINT = "point"


@dataclass(frozen=True, kw_only=True)
class LesionAgreement:
    """One lesion of a structure as all readers together show it, largest first; `number` counts from 1 in a structure.

    `found_by` are the readers who have it, `volumes_ml` how much each of them outlined of it, and `dice_min` the lowest
    Dice of any two readers within it, 0 where one of them has nothing there, None for boxes and points.
    """

    structure: str
    number: int
    kind: LesionKind
    centre_mm_LPS: tuple[float, float, float]
    found_by: tuple[str, ...]
    volumes_ml: dict[str, float] = field(default_factory=dict)
    dice_min: float | None = None


@dataclass(frozen=True, kw_only=True)
class StructureAgreement:
    """Agreement of all readers at once on one outlined structure, over the voxels that any of them outlined.

    Fleiss' kappa and Krippendorff's alpha; None where they are not defined (nobody outlined anything, or all did the
    same everywhere: agreement without anything to measure chance by).
    """

    structure: str
    fleiss_kappa: float | None
    krippendorff_alpha: float | None


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why reads are in dispute, in words; "{0}" stands for the first of `readers`, and so on."""

    text: str
    readers: tuple[str, ...] = ()

    def said(self, names: Mapping[str, str]) -> str:
        """The words, with each reader as `names` calls him ("reader B"); "a reader" for one it does not know.

        Readers told in a row stand in the order of their names: the order they are kept in is the same in every case.
        """
        called = [names.get(reader, "a reader") for reader in self.readers]
        for row in _IN_A_ROW.findall(self.text):
            places = [int(number) for number in _PLACE.findall(row)]
            for place, name in zip(places, sorted(called[place] for place in places), strict=True):
                called[place] = name
        return self.text.format(*called)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the reads of a case say together; `reasons` are empty for a consensus."""

    pairs: tuple[PairAgreement, ...]
    reasons: tuple[Reason, ...]
    severity: float
    lesions: tuple[LesionAgreement, ...] = ()
    structures: tuple[StructureAgreement, ...] = ()

    @property
    def agreed(self) -> bool:
        return not self.reasons


class DisputeState(StrEnum):
    """Where a dispute stands; `disputes.py` says what leads from one to another."""

    OPEN = "open"
    CLAIMED = "claimed"  # one adjudicator has it
    ESCALATED = "escalated"  # waits for the group the protocol names
    SETTLED = "settled"
    REOPENED = "reopened"  # was settled, and is open again
    WITHDRAWN = "withdrawn"  # its reads changed and are no longer in dispute


@dataclass(frozen=True, kw_only=True)
class Dispute:
    """A case whose reads disagree beyond the protocol's limits.

    `group` names the adjudicators who may take it ("" for any), `holder` who has it, since and until when. `round`
    counts from 1 and goes up each time it is reopened.
    """

    case: str
    protocol: str
    state: DisputeState
    round: int
    reads: tuple[Read, ...]
    verdict: Verdict
    since: datetime
    group: str = ""
    holder: str | None = None
    held_since: datetime | None = None
    held_until: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a decision takes from where: for the whole case (both None), one structure, or one of its lesions.

    `source` is "reader:<account id>", "consensus:<rule>", "edit:<revision of the adjudicator's edit>", or "none": there
    is nothing of it.
    """

    source: str
    structure: str | None = None
    lesion: int | None = None


@dataclass(frozen=True, kw_only=True)
class Adjudication:
    """A signed human decision on a dispute.

    `parts` say what was taken from where, `label` is what came of it, `reads` are the ids it was based on and `basis`
    the digest of what was shown (verdict and labels). `settles` is False for a first of two decisions. `signature` is
    the site's Ed25519 signature (hex) over the canonical JSON of all the other fields but the id. `choice` says the
    decision in one word; rows from before parts have nothing else: a reader's pseudonym, or 'majority'.
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
    round: int = 1
    settles: bool = True
    parts: tuple[Part, ...] = ()
    basis: str | None = None


@dataclass(frozen=True, kw_only=True)
class Edit:
    """A label an adjudicator draws for his decision, in his viewer.

    Revision 0 is what he began from. `source` is that ("reader:<account id>", "consensus:<rule>" or "none"), and of
    what he drew "edit:<revision that it began from>".
    """

    id: int
    case: str
    adjudicator: str
    round: int
    revision: int
    source: str
    label: str
    created: datetime


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
