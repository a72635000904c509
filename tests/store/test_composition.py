"""What an adjudicator's parts come to, by hand-worked examples."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from labeling_protocols.composition import CompositionError, compose
from labeling_protocols.consensus import form_consensus
from labeling_protocols.label import Label
from labeling_protocols.protocol import SHIPPED, Protocol, load_protocol
from labeling_protocols.protocol_parts import ConsensusRule
from labeling_protocols.records import Part
from tests.store.drawn_labels import box, label, point

NODULE, ABDOMEN = (load_protocol(SHIPPED / f"{name}.yaml") for name in ("lung_nodule", "abdomen_ct"))
LIVER, SPLEEN, TUMOUR = 1, 2, 6


def whole(source: str) -> Part:
    return Part(source=source)


def of(structure: str, source: str, lesion: int | None = None) -> Part:
    return Part(source=source, structure=structure, lesion=lesion)


def rows(found: Label, value: int) -> list[int]:
    """Where a value lies along x, in the middle of the volume."""
    return np.flatnonzero(found.mask_ZYX(value)[2, 2]).tolist()


def refusal(protocol: Protocol, labels: Mapping[str, Label], parts: Sequence[Part], **more: Mapping[str, Label]) -> str:
    with pytest.raises(CompositionError) as caught:
        compose(protocol, labels, parts, **more)
    assert str(caught.value).endswith("Nothing was decided.")
    return str(caught.value)


def test_the_whole_of_a_readers_label_stays_as_it_is() -> None:
    labels = {
        "a": label([(LIVER, 1, 9)], [(TUMOUR, 2, 5)], answers={"phase": "arterial"}),
        "b": label([(LIVER, 1, 8)], answers={"phase": "delayed"}),
    }
    found = compose(ABDOMEN, labels, [whole("reader:a")])
    assert np.array_equal(found.label.layers_LZYX, labels["a"].layers_LZYX)
    assert found.label.answers == {"phase": "arterial"}
    assert found.clashing_voxels == 0


@pytest.mark.parametrize("rule", ConsensusRule)
def test_a_whole_consensus_is_the_consensus_by_that_rule(rule: ConsensusRule, protocol: Protocol) -> None:
    labels = {"a": label([(1, 1, 6)]), "b": label([(1, 3, 8)]), "c": label([(1, 4, 11)])}
    found = compose(protocol, labels, [whole(f"consensus:{rule}")])
    assert np.array_equal(found.label.array_ZYX, form_consensus(protocol, labels, rule).label.array_ZYX)


def test_a_structures_own_part_counts_over_the_whole_case(protocol: Protocol) -> None:
    labels = {"a": label([(1, 1, 4), (2, 6, 8)]), "b": label([(1, 2, 5), (2, 7, 11)])}
    found = compose(protocol, labels, [whole("reader:a"), of("posterior", "reader:b")]).label
    assert (rows(found, 1), rows(found, 2)) == ([1, 2, 3], [7, 8, 9, 10])


def test_a_structure_can_be_taken_to_be_nowhere(protocol: Protocol) -> None:
    labels = {"a": label([(1, 1, 4), (2, 6, 8)]), "b": label([(1, 2, 5)])}
    found = compose(protocol, labels, [whole("reader:a"), of("posterior", "none")]).label
    assert (rows(found, 1), rows(found, 2)) == ([1, 2, 3], [])
    nothing = compose(protocol, labels, [whole("none")]).label
    assert not nothing.array_ZYX.any()


def test_every_structure_can_have_a_part_of_its_own_and_answers_are_then_the_majoritys() -> None:
    labels = {
        "a": label([(LIVER, 1, 9)], answers={"phase": "arterial"}),
        "b": label([(LIVER, 2, 9)], answers={"phase": "delayed"}),
        "c": label([(LIVER, 3, 9)], answers={"phase": "delayed"}),
    }
    parts = [of(structure.name, "reader:a") for structure in ABDOMEN.structures]
    found = compose(ABDOMEN, labels, parts).label
    assert rows(found, LIVER) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert found.answers == {"phase": "delayed"}


def test_an_answer_that_the_chosen_reader_left_open_stays_open() -> None:
    labels = {reader: label([(LIVER, 1, 9)], answers={"phase": "delayed"}) for reader in "bc"}
    found = compose(ABDOMEN, {"a": label([(LIVER, 1, 9)]), **labels}, [whole("reader:a")])
    assert found.label.answers == {}


def test_an_edit_without_answers_takes_those_that_most_readers_gave() -> None:
    labels = {reader: label([(LIVER, 1, 9)], answers={"phase": "delayed"}) for reader in "ab"}
    found = compose(ABDOMEN, labels, [whole("edit:7")], {"edit:7": label([(LIVER, 4, 9)])}).label
    assert rows(found, LIVER) == [4, 5, 6, 7, 8]
    assert found.answers == {"phase": "delayed"}


def test_structures_that_overlap_come_in_layers_and_others_in_one() -> None:
    labels = {"a": label([(LIVER, 1, 9)]), "b": label([(TUMOUR, 2, 5)]), "c": label([(TUMOUR, 9, 11)])}
    found = compose(ABDOMEN, labels, [whole("reader:a"), of("liver_tumour", "reader:b")]).label
    assert (rows(found, LIVER), rows(found, TUMOUR)) == ([1, 2, 3, 4, 5, 6, 7, 8], [2, 3, 4])
    assert len(found.layers_LZYX) == 2
    apart = compose(ABDOMEN, labels, [whole("reader:a"), of("liver_tumour", "reader:c")]).label
    assert len(apart.layers_LZYX) == 1


def test_a_voxel_two_structures_claim_goes_to_the_narrower_part() -> None:
    labels = {"a": label([(LIVER, 1, 7)]), "b": label([(SPLEEN, 5, 10)])}
    found = compose(ABDOMEN, labels, [whole("reader:a"), of("spleen", "reader:b")])
    assert (rows(found.label, LIVER), rows(found.label, SPLEEN)) == ([1, 2, 3, 4], [5, 6, 7, 8, 9])
    assert found.clashing_voxels == 2 * 9  # x 5 and 6, each three by three voxels


def test_between_equally_narrow_parts_it_goes_to_the_first_structure_of_the_protocol() -> None:
    labels = {"a": label([(LIVER, 1, 7)]), "b": label([(SPLEEN, 5, 10)])}
    parts = [whole("none"), of("spleen", "reader:b"), of("liver", "reader:a")]
    found = compose(ABDOMEN, labels, parts)
    assert (rows(found.label, LIVER), rows(found.label, SPLEEN)) == ([1, 2, 3, 4, 5, 6], [7, 8, 9])
    assert found.clashing_voxels == 2 * 9


def test_a_lesions_part_claims_a_voxel_before_its_rival_structure() -> None:
    labels = {"a": label([(LIVER, 1, 7)]), "b": label([(SPLEEN, 5, 10)])}
    parts = [whole("none"), of("liver", "reader:a"), of("spleen", "reader:b", 1)]
    found = compose(ABDOMEN, labels, parts)
    assert (rows(found.label, LIVER), rows(found.label, SPLEEN)) == ([1, 2, 3, 4], [5, 6, 7, 8, 9])


TWO_LESIONS = {
    # The larger lesion is x 5 to 10 (number 1), the smaller one x 1 to 3 (number 2).
    "a": label([(1, 1, 3), (1, 5, 8)], boxes=[box(2), box(7)]),
    "b": label([(1, 2, 4), (1, 6, 11)], boxes=[box(3), box(9)]),
    "c": label(),
}


def test_one_lesion_can_come_from_another_reader() -> None:
    found = compose(NODULE, TWO_LESIONS, [whole("reader:a"), of("nodule", "reader:b", 1)]).label
    assert rows(found, 1) == [1, 2, 6, 7, 8, 9, 10]
    assert set(found.boxes) == {box(2), box(9)}


def test_one_lesion_can_be_left_out() -> None:
    found = compose(NODULE, TWO_LESIONS, [whole("reader:a"), of("nodule", "none", 2)]).label
    assert rows(found, 1) == [5, 6, 7]
    assert found.boxes == (box(7),)


def test_a_lesions_part_counts_over_its_structures() -> None:
    parts = [whole("none"), of("nodule", "reader:a"), of("nodule", "reader:b", 2)]
    found = compose(NODULE, TWO_LESIONS, parts).label
    assert rows(found, 1) == [2, 3, 5, 6, 7]
    assert set(found.boxes) == {box(7), box(3)}


def test_lesions_alone_make_a_structure_where_each_of_them_has_a_part() -> None:
    parts = [of("nodule", "reader:b", 1), of("nodule", "reader:a", 2), of("micronodule", "none")]
    found = compose(NODULE, TWO_LESIONS, parts).label
    assert rows(found, 1) == [1, 2, 6, 7, 8, 9, 10]
    said = refusal(NODULE, TWO_LESIONS, parts[1:])
    assert said.startswith("no part says what becomes of lesion 1 of nodule; expected one for each")


def test_a_lesion_can_be_a_consensus() -> None:
    found = compose(NODULE, TWO_LESIONS, [whole("reader:c"), of("nodule", "consensus:intersection", 1)]).label
    assert rows(found, 1) == []  # reader c has nothing there
    found = compose(NODULE, TWO_LESIONS, [whole("reader:c"), of("nodule", "consensus:majority", 1)]).label
    assert rows(found, 1) == [6, 7]
    assert found.boxes == (box(8),)
    found = compose(NODULE, TWO_LESIONS, [whole("reader:c"), of("nodule", "consensus:union", 2)]).label
    assert rows(found, 1) == [1, 2, 3]
    assert found.boxes == (box(2.5),)


def test_an_edited_lesion_may_reach_beyond_what_readers_outlined_but_not_into_another_lesion() -> None:
    labels = {"a": label([(1, 1, 3), (1, 7, 9)], boxes=[box(2), box(60)]), "b": label([(1, 7, 10)])}
    edit = label([(1, 2, 8)], [(1, 11, 12)], boxes=[box(61)])  # joined to lesion 1 (x 7 to 9); x 11 hangs with nothing
    parts = [whole("reader:a"), of("nodule", "edit:1", 1)]
    found = compose(NODULE, labels, parts, {"edit:1": edit}).label
    assert rows(found, 1) == [1, 2, 3, 4, 5, 6, 7]  # x 1 and 2 are lesion 2's and stay reader a's
    assert found.boxes == (box(2), box(60))
    taken_out = compose(NODULE, labels, [whole("edit:1"), of("nodule", "reader:b", 1)], {"edit:1": edit}).label
    assert rows(taken_out, 1) == [2, 7, 8, 9, 11]


def test_a_lesion_that_is_only_pointed_at_comes_from_its_part() -> None:
    labels = {"a": label(points=[point(10), point(50)]), "b": label(points=[point(12)]), "c": label()}
    by_place = [whole("reader:a"), of("micronodule", "reader:b", 1)]
    assert set(compose(NODULE, labels, by_place).label.points) == {point(50), point(12)}
    assert compose(NODULE, labels, [whole("reader:a"), of("micronodule", "none", 2)]).label.points == (point(10),)
    agreed = compose(NODULE, labels, [whole("none"), of("micronodule", "consensus:majority", 1)]).label
    assert agreed.points == (point(11),)


def test_labels_without_layers_come_to_one_without() -> None:
    bare = {name: replace(one, layers_LZYX=one.layers_LZYX[:0]) for name, one in TWO_LESIONS.items()}
    found = compose(NODULE, bare, [whole("reader:a"), of("nodule", "none", 1)]).label
    assert found.layers_LZYX.shape == (0, 5, 5, 12)


def test_the_order_of_parts_and_readers_does_not_matter() -> None:
    parts = [
        whole("reader:a"),
        of("nodule", "reader:b", 1),
        of("nodule", "consensus:union", 2),
        of("micronodule", "none"),
    ]
    expected = compose(NODULE, TWO_LESIONS, parts).label
    for seed in range(4):
        order = Random(seed)
        shuffled = {name: TWO_LESIONS[name] for name in order.sample(sorted(TWO_LESIONS), 3)}
        found = compose(NODULE, shuffled, order.sample(parts, len(parts))).label
        assert np.array_equal(found.layers_LZYX, expected.layers_LZYX)
        assert found.boxes == expected.boxes


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (whole("reader:zoe"), "a part takes the label of a reader who has not read this case"),
        (whole("consensus:average"), "expected majority, intersection, union, staple"),
        (whole("edit:7"), "a part takes edit '7', and there is no such edit"),
        (whole("anybody"), "a part takes 'anybody'; expected a reader, a consensus, an edit or none"),
        (of("spleen", "reader:a"), "a part names the structure 'spleen'; expected nodule or micronodule"),
        (of("nodule", "reader:a", 3), "lesion 3 of nodule; it has 2, counted from 1"),
        (of("nodule", "reader:a", 0), "lesion 0 of nodule; it has 2, counted from 1"),
        (of("micronodule", "reader:a", 1), "lesion 1 of micronodule; it has none"),
        (Part(source="none", lesion=1), "a part names lesion 1 and no structure"),
    ],
)
def test_parts_that_fit_no_case_are_refused_in_words(part: Part, said: str) -> None:
    message = refusal(NODULE, TWO_LESIONS, [part])
    assert said in message
    assert "zoe" not in message


def test_a_structure_that_no_part_covers_is_refused() -> None:
    said = refusal(NODULE, TWO_LESIONS, [of("nodule", "reader:a")])
    assert said.startswith("no part says what becomes of micronodule")
    assert "becomes of nodule" in refusal(NODULE, TWO_LESIONS, [])


def test_two_parts_for_the_same_are_refused() -> None:
    assert "two parts for the whole case" in refusal(NODULE, TWO_LESIONS, [whole("reader:a"), whole("reader:b")])
    twice = [whole("reader:a"), of("nodule", "reader:a"), of("nodule", "reader:b")]
    assert "two parts for nodule" in refusal(NODULE, TWO_LESIONS, twice)
    twice = [whole("reader:a"), of("nodule", "reader:a", 2), of("nodule", "none", 2)]
    assert "two parts for lesion 2 of nodule" in refusal(NODULE, TWO_LESIONS, twice)


def test_an_edit_on_another_grid_and_a_case_without_reads_are_refused() -> None:
    other = label(array_ZYX=np.zeros((4, 5, 12), np.uint8))
    assert "image's grid" in refusal(NODULE, TWO_LESIONS, [whole("edit:1")], edits={"edit:1": other})
    assert "at least one read" in refusal(NODULE, {}, [whole("none")])
