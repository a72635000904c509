"""Protocols that hypothesis draws: every field, in every combination the rules allow."""

from typing import Any

from hypothesis import strategies as st

from labeling_protocols.protocol import Protocol
from labeling_protocols.protocol_parts import (
    Acquisition,
    AcquisitionStrategy,
    AdjudicationRule,
    AgreementLimits,
    AnswerAgreement,
    Blinding,
    BlindingLifts,
    BooleanQuestion,
    Calibration,
    ChoiceQuestion,
    Code,
    Consensus,
    ConsensusRule,
    GateLimits,
    IntegerQuestion,
    PrelabelPolicy,
    Question,
    SeatRule,
    Structure,
    Task,
    TextQuestion,
    Ties,
)

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
CODES = st.builds(Code, scheme=st.sampled_from(["SCT", "DCM", "RADLEX"]), value=st.text(max_size=9), meaning=st.text())
FRACTIONS = st.floats(0, 1)
DISTANCES_MM = st.floats(0.1, 100)


@st.composite
def protocols(draw: st.DrawFn) -> Protocol:
    names = draw(st.lists(NAMES, min_size=2, max_size=6, unique=True))
    cut = draw(st.integers(1, len(names)))
    values = draw(st.lists(st.integers(1, 255), min_size=cut, max_size=cut, unique=True))
    structures = tuple(draw(_structure(name, value)) for name, value in zip(names[:cut], values, strict=True))
    outlined = [s.name for s in structures if Task.SEGMENTATION in s.tasks]
    groups = draw(st.lists(st.builds(SeatRule, count=st.integers(1, 4), group=st.none() | NAMES), max_size=4))
    seats = sum(rule.count for rule in groups) or draw(st.integers(1, 20))
    pairs = [(a, b) for i, a in enumerate(outlined) for b in outlined[i + 1 :]]
    return Protocol(
        name=draw(NAMES),
        version=draw(st.integers(1, 99)),
        title=draw(st.text()),
        modality=("CT", "MR"),
        channels=draw(st.sampled_from([(), ("T1",), ("T1", "FLAIR")])),
        body_part=draw(CODES),
        structures=structures,
        questions=tuple(draw(_question(name)) for name in names[cut:]),
        overlaps=tuple(draw(st.lists(st.sampled_from(pairs), unique=True))) if pairs else (),
        may_be_empty=draw(st.booleans()),
        readers_per_case=seats,
        seats=tuple(groups),
        seat_lease_minutes=draw(st.integers(1, 10_000)),
        prelabels=draw(st.sampled_from(PrelabelPolicy)),
        blinding=Blinding(lifts=draw(st.sampled_from(BlindingLifts))),
        calibration=draw(st.none() | st.builds(Calibration, every=st.integers(1, 50), limits=_limits(structures))),
        acquisition=draw(st.none() | st.builds(Acquisition, strategy=st.sampled_from(AcquisitionStrategy))),
        agreement=draw(_limits(structures)),
        consensus=Consensus(
            rule=draw(st.sampled_from(ConsensusRule)),
            ties=draw(st.sampled_from(Ties)),
            found_by_min=draw(st.none() | st.integers(1, seats)),
        ),
        adjudication=draw(_adjudication()),
        gate=GateLimits(
            dice_mean_min=draw(FRACTIONS),
            dice_min={name: draw(FRACTIONS) for name in outlined},
            missed_max=draw(st.integers(0, 9)),
            dice_drop_max=draw(FRACTIONS),
        ),
    )


@st.composite
def _structure(draw: st.DrawFn, name: str, value: int) -> Structure:
    return Structure(
        name=name,
        title=draw(st.text()),
        value=value,
        color=draw(st.from_regex(r"#[0-9a-fA-F]{6}", fullmatch=True)),
        category=draw(CODES),
        type=draw(CODES),
        modifier=draw(st.none() | CODES),
        tasks=tuple(draw(st.lists(st.sampled_from(Task), min_size=1, unique=True))),
    )


@st.composite
def _limits(draw: st.DrawFn, structures: tuple[Structure, ...]) -> dict[str, AgreementLimits]:
    limits = {}
    for structure in structures:
        fields: dict[str, Any] = {}
        if Task.SEGMENTATION in structure.tasks:
            fields |= {"dice_min": draw(FRACTIONS), "hd95_mm_max": draw(DISTANCES_MM)}
            fields |= {
                name: draw(FRACTIONS) for name in ("volume_difference_max", "lesion_f1_min") if draw(st.booleans())
            }
            if draw(st.booleans()):
                fields |= {"surface_dice_min": draw(FRACTIONS), "surface_tolerance_mm": draw(DISTANCES_MM)}
        if set(structure.tasks) - {Task.SEGMENTATION}:
            by_iou = Task.POINTS not in structure.tasks and draw(st.booleans())
            matching = {"match_iou_min": draw(st.floats(0.01, 1))} if by_iou else {"match_mm_max": draw(DISTANCES_MM)}
            fields |= {"f1_min": draw(FRACTIONS), **matching}
        limits[structure.name] = AgreementLimits(**fields)
    return limits


@st.composite
def _question(draw: st.DrawFn, name: str) -> Question:
    common: dict[str, Any] = {"name": name, "title": draw(st.text()), "required": draw(st.booleans())}
    agreement = draw(st.sampled_from(AnswerAgreement))
    kind = draw(st.sampled_from(["choice", "integer", "boolean", "text"]))
    if kind == "choice":
        options = draw(st.lists(st.text(min_size=1), min_size=2, max_size=4, unique=True))
        return ChoiceQuestion(kind="choice", options=tuple(options), agreement=agreement, **common)
    if kind == "integer":
        least, most = sorted(draw(st.tuples(st.integers(-9, 9), st.integers(-9, 9))))
        tolerance = draw(st.integers(0, 3))
        return IntegerQuestion(kind="integer", min=least, max=most, tolerance=tolerance, agreement=agreement, **common)
    if kind == "boolean":
        return BooleanQuestion(kind="boolean", agreement=agreement, **common)
    return TextQuestion(kind="text", max_characters=draw(st.integers(1, 10_000)), **common)


@st.composite
def _adjudication(draw: st.DrawFn) -> AdjudicationRule:
    escalated = draw(st.booleans())
    return AdjudicationRule(
        adjudicators=draw(st.integers(1, 2)),
        group=draw(st.none() | NAMES),
        additional_readers=draw(st.integers(0, 5)),
        escalate_after_days=draw(st.integers(1, 30)) if escalated else None,
        escalate_to=draw(NAMES) if escalated else None,
        rationale_min_characters=draw(st.integers(1, 100)),
    )
