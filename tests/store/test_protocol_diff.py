"""Each change of a protocol is told in words, with what it means for the reads made before."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings

from labeling_protocols.protocol import SHIPPED, Protocol, load_protocol
from labeling_protocols.protocol_diff import diff
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
    Consensus,
    ConsensusRule,
    PrelabelPolicy,
    SeatRule,
    Task,
    Ties,
)
from tests.store.drawn_protocols import protocols

ABDOMEN = load_protocol(SHIPPED / "abdomen_ct.yaml")
NODULE = load_protocol(SHIPPED / "lung_nodule.yaml")
Edit = Callable[[Protocol], Protocol]


def of_structure(name: str, **changes: Any) -> Edit:
    def edit(protocol: Protocol) -> Protocol:
        structures = tuple(replace(s, **changes) if s.name == name else s for s in protocol.structures)
        return replace(protocol, structures=structures)

    return edit


def of_question(name: str, **changes: Any) -> Edit:
    def edit(protocol: Protocol) -> Protocol:
        questions = tuple(replace(q, **changes) if q.name == name else q for q in protocol.questions)
        return replace(protocol, questions=questions)

    return edit


def whole(**changes: Any) -> Edit:
    return lambda protocol: replace(protocol, **changes)


def without(name: str) -> Edit:
    def edit(protocol: Protocol) -> Protocol:
        return replace(
            protocol,
            structures=tuple(s for s in protocol.structures if s.name != name),
            overlaps=(),
            agreement={key: limits for key, limits in protocol.agreement.items() if key != name},
            gate=replace(protocol.gate, dice_min={k: v for k, v in protocol.gate.dice_min.items() if k != name}),
        )

    return edit


CYST = BooleanQuestion(name="cyst", title="Is there a cyst?", kind="boolean")
LIVER, TUMOUR = ABDOMEN.structure("liver"), ABDOMEN.structure("liver_tumour")
LIVER_LIMITS = ABDOMEN.agreement["liver"]
TUMOUR_BOXED = {
    **ABDOMEN.agreement,
    "liver_tumour": AgreementLimits(f1_min=0.8, match_mm_max=9, dice_min=0.6, hd95_mm_max=9),
}


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (whole(title="Organs"), "title Upper abdominal organs on CT -> Organs: reads stay"),
        (of_structure("liver", title="The liver"), "title of liver Liver -> The liver: reads stay"),
        (of_structure("liver", color="#000000"), "color of liver #b5651d -> #000000: reads stay"),
        (
            of_structure("liver", type=replace(LIVER.type, meaning="Hepar")),
            "type of liver Liver (SCT 10200004) -> Hepar (SCT 10200004): reads stay",
        ),
        (whole(structures=ABDOMEN.structures[::-1]), "the order of the structures: reads stay"),
        (whole(questions=()), "question 'phase' was removed: its answers are kept and count no more, reads stay"),
        (whole(questions=(*ABDOMEN.questions, CYST)), "question 'cyst' was added: reads made before leave it open"),
        (
            of_question("phase", agreement=AnswerAgreement.EXACT),
            "agreement of question 'phase' majority -> exact: verdicts are computed again, reads stay",
        ),
        (whole(may_be_empty=True), "a label without any finding is a read now: it holds for work from now on"),
        (whole(readers_per_case=5), "readers_per_case 3 -> 5: cases need 2 more read(s) each before they are settled"),
        (whole(readers_per_case=2), "readers_per_case 3 -> 2: cases with enough reads are settled sooner"),
        (
            whole(seats=(SeatRule(count=1, group="abdominal"), SeatRule(count=2))),
            "seats (anyone, anyone, anyone) -> (abdominal, anyone, anyone): it holds for seats that are free",
        ),
        (whole(prelabels=PrelabelPolicy.NEVER), "prelabels always -> never: it holds for work from now on"),
        (whole(blinding=Blinding(lifts=BlindingLifts.WHEN_SETTLED)), "blinding.lifts never -> when_settled"),
        (whole(calibration=Calibration(every=7)), "calibration none -> every 7, limits none: it holds for work"),
        (
            whole(acquisition=Acquisition(strategy=AcquisitionStrategy.BALD)),
            "acquisition none -> strategy bald: it holds for work from now on, reads stay",
        ),
        (
            whole(agreement={**ABDOMEN.agreement, "liver": AgreementLimits(dice_min=0.95, hd95_mm_max=10.0)}),
            "dice_min of liver 0.92 -> 0.95: verdicts are computed again, reads stay",
        ),
        (
            whole(agreement={**ABDOMEN.agreement, "liver": replace(LIVER_LIMITS, volume_difference_max=0.1)}),
            "volume_difference_max of liver none -> 0.1: verdicts are computed again, reads stay",
        ),
        (
            whole(calibration=Calibration(every=7, limits={**ABDOMEN.agreement})),
            "calibration none -> every 7, limits liver: dice_min 0.92, hd95_mm_max 10; spleen: dice_min 0.92,",
        ),
        (
            whole(consensus=replace(ABDOMEN.consensus, rule=ConsensusRule.STAPLE)),
            "consensus.rule majority -> staple: truths are computed again, reads stay",
        ),
        (
            whole(consensus=replace(ABDOMEN.consensus, found_by_min=1)),
            "consensus.found_by_min none -> 1: truths are computed again, reads stay",
        ),
        (
            whole(consensus=Consensus(rule=ConsensusRule.MAJORITY, ties=Ties.BACKGROUND)),
            "consensus.ties nearest_boundary -> background: truths are computed again, reads stay",
        ),
        (
            whole(adjudication=AdjudicationRule(adjudicators=2, rationale_min_characters=10)),
            "adjudication.adjudicators 1 -> 2: it holds for disputes that are open",
        ),
        (whole(gate=replace(ABDOMEN.gate, missed_max=0)), "gate.missed_max 2 -> 0: it holds for candidates"),
        (whole(modality=("CT", "MR")), "modality CT -> CT, MR: it holds for images that come from now on"),
        (
            whole(channels=("native", "contrast")),
            "channels none -> native, contrast: cases without them are not trained with until their images come in",
        ),
    ],
)
def test_a_change_that_leaves_the_question_as_it_was_lets_reads_count_on(edit: Edit, words: str) -> None:
    found = diff(ABDOMEN, replace(edit(ABDOMEN), version=2))
    assert found.reads_count_on
    assert len(found.changes) == 1
    assert str(found.changes[0]).startswith(words)


@pytest.mark.parametrize(
    ("old", "edit", "words"),
    [
        (ABDOMEN, without("spleen"), "structure 'spleen' was removed"),
        (ABDOMEN, of_structure("liver", value=9), "value of liver 1 -> 9: labels made before hold the old value"),
        (
            ABDOMEN,
            of_structure("left_kidney", modifier=None),
            "modifier of left_kidney Left (SCT 7771000) -> none: it means another thing now",
        ),
        (ABDOMEN, of_structure("liver", type=TUMOUR.type), "type of liver Liver (SCT 10200004) -> Neoplasm (SCT 10836"),
        (
            replace(ABDOMEN, agreement=ABDOMEN.agreement),
            lambda protocol: replace(
                protocol,
                agreement=TUMOUR_BOXED,
                structures=(*protocol.structures[:-1], replace(TUMOUR, tasks=(Task.SEGMENTATION, Task.BOXES))),
            ),
            "liver_tumour is asked for as boxes too: reads lack it",
        ),
        (ABDOMEN, whole(overlaps=()), "liver and liver_tumour may not overlap any more: labels made before may"),
        (replace(ABDOMEN, overlaps=()), whole(overlaps=ABDOMEN.overlaps), "liver and liver_tumour may overlap now"),
        (ABDOMEN, whole(questions=(replace(CYST, required=True),)), "question 'cyst' was added and must be answered"),
        (ABDOMEN, of_question("phase", required=True), "question 'phase' must be answered now: reads may leave it"),
        (ABDOMEN, of_question("phase", title="Phase?"), "question 'phase' now asks 'Phase?'"),
        (ABDOMEN, of_question("phase", options=("none", "some")), "question 'phase' offers none, some instead of"),
        (NODULE, of_question("malignancy", max=10), "question 'malignancy' takes 1 to 10 instead of 1 to 5"),
        (NODULE, whole(may_be_empty=False), "a label without any finding is refused now"),
        (NODULE, whole(name="nodule"), "name lung_nodule -> nodule: it is another protocol"),
    ],
)
def test_a_change_of_the_question_makes_reads_void_and_says_why(old: Protocol, edit: Edit, words: str) -> None:
    found = diff(old, replace(edit(old), version=2))
    assert not found.reads_count_on
    void = [str(change) for change in found.changes if not change.reads_count_on]
    assert any(text.startswith(words) for text in void), void


def test_an_added_structure_must_be_read_and_its_limits_are_no_change_of_their_own() -> None:
    found = diff(without("spleen")(ABDOMEN), ABDOMEN)
    assert [change.what for change in found.changes if not change.reads_count_on] == [
        "structure 'spleen' was added",
        "liver and liver_tumour may overlap now",
    ]
    assert not any("dice_min of spleen" in change.what for change in found.changes)


def test_the_version_number_alone_is_no_change() -> None:
    assert diff(ABDOMEN, replace(ABDOMEN, version=2)).changes == ()


@settings(max_examples=60, deadline=None)
@given(protocols(), protocols())
def test_any_two_protocols_can_be_compared_and_equal_ones_have_no_changes(old: Protocol, new: Protocol) -> None:
    assert diff(old, replace(old, version=old.version + 1)).changes == ()
    renamed = replace(new, name=old.name, version=old.version)
    assert not diff(old, renamed).changes or old.digest != renamed.digest


def test_another_way_to_say_the_same_is_no_change() -> None:
    said = replace(ABDOMEN, seats=(SeatRule(count=3),), overlaps=(("liver_tumour", "liver"),))
    assert diff(ABDOMEN, said).changes == ()
