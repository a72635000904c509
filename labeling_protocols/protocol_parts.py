"""What a protocol is made of: structures, questions, seats, limits and rules, as frozen values.

A docstring under a field is its help in the JSON Schema. Each field that came after the first site began to read has a
default that means what was done before it came: a default is left out of a protocol's digest.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

NAME_PATTERN = r"^[a-z][a-z0-9_]{0,40}$"
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
ChannelName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,15}$")]
Fraction = Annotated[float, Field(ge=0, le=1)]
Millimetres = Annotated[float, Field(gt=0)]
_UNIQUE = {"uniqueItems": True}


class Task(StrEnum):
    """What a reader does with a structure."""

    SEGMENTATION = "segmentation"
    BOXES = "boxes"
    POINTS = "points"


class ConsensusRule(StrEnum):
    """How reads that agree become one truth (`labeling_protocols/consensus.py`)."""

    MAJORITY = "majority"  # what more readers drew than anything else
    INTERSECTION = "intersection"  # what all readers drew
    UNION = "union"  # what any reader drew
    STAPLE = "staple"  # each reader weighed by how well he agrees with the estimate (Warfield et al. 2004)


class Ties(StrEnum):
    """What a voxel becomes when the readers split evenly."""

    BACKGROUND = "background"
    NEAREST_BOUNDARY = "nearest_boundary"  # the structure it lies deepest inside, by mean signed distance


class AnswerAgreement(StrEnum):
    """When readers agree on an answer; a reader who left a question open takes no part."""

    EXACT = "exact"  # all gave the same answer, or numbers within the question's tolerance
    MAJORITY = "majority"  # more than half gave the same answer
    ANY = "any"  # whatever they answered


class BlindingLifts(StrEnum):
    """When a reader of a case may see the other readers' work on it."""

    NEVER = "never"
    WHEN_SETTLED = "when_settled"


class PrelabelPolicy(StrEnum):
    """When a reader is shown what a model proposed; who saw it first tends to agree with it."""

    ALWAYS = "always"
    AFTER_FIRST_PASS = "after_first_pass"  # noqa: S105  a pass over the images
    NEVER = "never"


class AcquisitionStrategy(StrEnum):
    """What puts the cases that wait for readers in their order (`training/acquisition.py`)."""

    FOREGROUND_RANDOM = "foreground_random"
    RANDOM = "random"
    SEQUENTIAL = "sequential"
    PREDICTIVE_ENTROPY = "predictive_entropy"
    BALD = "bald"
    ENSEMBLE_DISAGREEMENT = "ensemble_disagreement"
    CLASP_PE = "clasp_pe"
    K_CENTRE = "k_centre"
    TYPICALITY = "typicality"
    READER_DISAGREEMENT = "reader_disagreement"
    HYBRID = "hybrid"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Code:
    """One coded concept (DICOM PS3.3 section 8.8)."""

    scheme: str
    """Coding scheme designator, such as SCT (SNOMED CT), RADLEX or DCM (DICOM PS3.16 section 8)."""
    value: str
    meaning: str


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Structure:
    """One thing to outline, box or point at."""

    name: Name
    title: str
    value: Annotated[int, Field(ge=1, le=255)]
    """Its voxel value in every label of this protocol."""
    color: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]
    category: Code
    """Segmented property category (DICOM PS3.3 C.8.20.4, CID 7150)."""
    type: Code
    """Segmented property type (DICOM PS3.3 C.8.20.4, CID 7151)."""
    modifier: Code | None = None
    """Segmented property type modifier, such as left or right (CID 244)."""
    tasks: Annotated[tuple[Task, ...], Field(min_length=1, json_schema_extra=_UNIQUE)] = (Task.SEGMENTATION,)
    """What readers do with it; one structure may be both boxed and outlined."""

    @model_validator(mode="after")
    def _tasks_once(self) -> "Structure":
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError("tasks: each task may stand once")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class _Question:
    """One thing to answer about the whole case."""

    name: Name
    title: str
    """The question as the reader sees it."""
    required: bool = False
    """Whether a read without an answer is refused. 3D Slicer's module cannot send answers."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ChoiceQuestion(_Question):
    """A question with one of several answers."""

    kind: Literal["choice"]
    options: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=2, json_schema_extra=_UNIQUE)]
    agreement: AnswerAgreement = AnswerAgreement.EXACT

    @model_validator(mode="after")
    def _options_once(self) -> "ChoiceQuestion":
        if len(set(self.options)) < len(self.options):
            raise ValueError("options: each option may stand once")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class IntegerQuestion(_Question):
    """A question with a whole number as its answer."""

    kind: Literal["integer"]
    min: int
    max: int
    agreement: AnswerAgreement = AnswerAgreement.EXACT
    tolerance: Annotated[int, Field(ge=0)] = 0
    """How far apart exact answers may lie; their consensus is then the (lower) median."""

    @model_validator(mode="after")
    def _range_is_one(self) -> "IntegerQuestion":
        if self.min > self.max:
            raise ValueError(f"max: expected at least min, {self.min}, found {self.max}")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BooleanQuestion(_Question):
    """A question answered by yes or no."""

    kind: Literal["boolean"]
    agreement: AnswerAgreement = AnswerAgreement.EXACT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TextQuestion(_Question):
    """A remark in the reader's own words; remarks never make a dispute."""

    kind: Literal["text"]
    max_characters: Annotated[int, Field(ge=1, le=10_000)] = 1000


Question = Annotated[
    ChoiceQuestion | IntegerQuestion | BooleanQuestion | TextQuestion,
    Field(discriminator="kind"),
]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SeatRule:
    """So many of a case's seats, kept for readers of one group or open to anyone."""

    count: Annotated[int, Field(ge=1)]
    group: Name | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AgreementLimits:
    """When two reads of a structure agree: outlines by Dice, HD95 and what else is given, boxes and points by what they
    find in common."""

    dice_min: Fraction | None = None
    """Dice's coefficient of the two outlines is at least this."""
    hd95_mm_max: Millimetres | None = None
    """The 95th percentile of the distances between both surfaces is at most this."""
    match_mm_max: Millimetres | None = None
    """Two boxes or points show the same finding where their centres lie at most this far apart."""
    match_iou_min: Annotated[float, Field(gt=0, le=1)] | None = None
    """Two boxes show the same finding where they share at least this much (intersection over union), instead of
    `match_mm_max`."""
    f1_min: Fraction | None = None
    """At least this share of the findings is common to both readers (F1: 2 common / (a's + b's))."""
    surface_dice_min: Fraction | None = None
    """At least this share of both surfaces lies within `surface_tolerance_mm` of the other (Nikolov et al. 2021)."""
    surface_tolerance_mm: Millimetres | None = None
    """How far apart surfaces count as the same; given together with `surface_dice_min`."""
    volume_difference_max: Fraction | None = None
    """The volumes differ by at most this share of their mean."""
    lesion_f1_min: Fraction | None = None
    """At least this share of the outlined lesions (connected components) is common to both readers; two outlines show
    the same lesion where they touch."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Consensus:
    """How reads that agree become the truth."""

    rule: ConsensusRule
    ties: Ties
    found_by_min: Annotated[int, Field(ge=1)] | None = None
    """How many readers must have found a box or point for it to count; more than half where it is left out."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Calibration:
    """Cases with a known truth, mixed in to see how well a reader reads."""

    every: Annotated[int, Field(ge=1)]
    """One calibration case after so many others."""
    limits: Mapping[str, AgreementLimits] | None = None
    """What a reader should reach against the known truth; the protocol's agreement limits where it is left out."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Acquisition:
    """How the cases that wait for readers are put in their order, each time there is a new champion."""

    strategy: AcquisitionStrategy


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Blinding:
    """When readers may see each other's work."""

    lifts: BlindingLifts = BlindingLifts.NEVER


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AdjudicationRule:
    """Who settles a dispute."""

    adjudicators: Annotated[int, Field(ge=1, le=2)] = 1
    """How many must decide the same."""
    group: Name | None = None
    """Only adjudicators of this group; any adjudicator where it is left out. Never a reader of the case."""
    additional_readers: Annotated[int, Field(ge=0, le=5)] = 0
    """Further readers a disputed case is given to before an adjudicator decides."""
    escalate_after_days: Annotated[int, Field(ge=1)] | None = None
    """A dispute that is open for longer goes to `escalate_to`; never, where it is left out."""
    escalate_to: Name | None = None
    """The group of adjudicators who take over."""
    rationale_min_characters: Annotated[int, Field(ge=1, le=1000)] = 1

    @model_validator(mode="after")
    def _escalates_to_somebody(self) -> "AdjudicationRule":
        if (self.escalate_after_days is None) != (self.escalate_to is None):
            raise ValueError("escalate_after_days and escalate_to: give both or neither")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GateLimits:
    """What a candidate must reach on held-out cases before it may become champion."""

    dice_mean_min: Fraction
    dice_min: Mapping[str, Fraction]
    missed_max: Annotated[int, Field(ge=0)]
    """How many structures present in the truth the model may leave out altogether."""
    dice_drop_max: Fraction
    """How far the mean Dice may lie below the champion's on the same cases."""
    surface_dice_min: Mapping[str, Fraction] | None = None
    """Surface Dice at the agreement limits' tolerance, by structure; only those named here are held to it."""
    hd95_mm_max: Mapping[str, Millimetres] | None = None
    """Median 95th percentile of the distances between both surfaces, by structure; only those named here."""
    figures_min: Mapping[str, Mapping[str, float]] | None = None
    """Least values of other figures of the evaluation, by the model's task (segmentation, interactive, detection or
    classification), then by the figure's name, such as sensitivity_at_1_fp or auc/yes. A detection or classification
    model has no Dice: without an entry here, or a change control plan that has one, none is released."""
    figures_max: Mapping[str, Mapping[str, float]] | None = None
    """Greatest values of figures of which less is better, in the same way."""
    calibration_error_max: Fraction | None = None
    """How far a model's probabilities may lie from how often it is right (expected calibration error)."""
    subgroup_dice_drop_max: Fraction | None = None
    """How far the mean Dice within a subgroup (scanner, slice thickness, sex, age, site) that is large enough to tell
    may lie below the champion's within the same; not looked at where it is left out."""
