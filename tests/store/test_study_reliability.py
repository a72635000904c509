"""Reliability of a study's reads by hand-worked numbers: who measured what, who answered what, who found what."""

import numpy as np
import pytest

from labeling_protocols.assessment import assess
from labeling_protocols.label import Answer
from labeling_protocols.protocol import SHIPPED, load_protocol
from labeling_protocols.reliability import bland_altman, icc
from labeling_protocols.study_reliability import AnswerReliability, CaseReads, StudyReliability, study_reliability
from tests.store.drawn_labels import label

HIPPOCAMPUS, NODULE = (load_protocol(SHIPPED / f"{name}.yaml") for name in ("hippocampus", "lung_nodule"))


def measured(case: str, **anterior_ml: float) -> CaseReads:
    return CaseReads(case=case, volumes_ml={reader: {"anterior": ml} for reader, ml in anterior_ml.items()})


def answered(case: str, **malignancy: Answer) -> CaseReads:
    return CaseReads(case=case, answers={reader: {"malignancy": answer} for reader, answer in malignancy.items()})


def of_question(found: StudyReliability, name: str) -> AnswerReliability:
    return next(answers for answers in found.answers if answers.question == name)


def test_volumes_of_readers_who_read_the_same_cases_are_compared_by_case_and_pair() -> None:
    cases = [measured("c2", ann=3.0, ben=2.5), measured("c1", ben=1.0, ann=1.5), measured("c3", ann=2.0, ben=2.0)]
    anterior, posterior = study_reliability(HIPPOCAMPUS, cases).volumes
    rows = np.array([[1.5, 1.0], [3.0, 2.5], [2.0, 2.0]])
    assert (anterior.readers, anterior.cases, anterior.icc) == (("ann", "ben"), 3, icc(rows))
    [pair] = anterior.pairs
    assert (pair.reader_a, pair.reader_b, pair.cases) == ("ann", "ben", 3)
    assert pair.bland_altman == bland_altman(rows[:, 0], rows[:, 1])
    assert pair.bland_altman is not None
    assert pair.bland_altman.bias == pytest.approx(1 / 3)
    assert (posterior.readers, posterior.cases, posterior.icc, posterior.pairs) == ((), 0, None, ())


def test_where_readers_change_from_case_to_case_the_correlation_is_of_those_with_most_cases_in_common() -> None:
    cases = [
        measured("c1", ann=1.0, ben=1.1),
        measured("c2", ann=2.0, ben=2.1, cid=2.2),
        measured("c3", ann=3.0, ben=3.1),
        measured("c4", ben=4.0, cid=4.4),
        measured("c5", cid=5.0),
    ]
    anterior = study_reliability(HIPPOCAMPUS, cases).volumes[0]
    assert (anterior.readers, anterior.cases) == (("ann", "ben"), 3)
    assert [(pair.reader_a, pair.reader_b, pair.cases) for pair in anterior.pairs] == [
        ("ann", "ben", 3),
        ("ann", "cid", 1),
        ("ben", "cid", 2),
    ]
    assert (anterior.pairs[1].icc, anterior.pairs[1].bland_altman) == (None, None)


def test_answers_are_compared_over_cases_and_open_ones_are_missing() -> None:
    cases = [
        answered("c1", ann=1, ben=1),
        answered("c2", ann=2, ben=3),
        answered("c3", ann=5, ben=5),
        answered("c4", ann=4),
        CaseReads(case="c5", answers={"ann": {}, "ben": {"remark": "apex"}}),
    ]
    malignancy = of_question(study_reliability(NODULE, cases), "malignancy")
    assert (malignancy.cases, malignancy.answers) == (3, 6)
    # 2 of 3 pairs agree; five answers to choose from; shares of 1, 2, 3 and 5 are 2, 1, 1 and 2 of 6.
    assert malignancy.agreement == pytest.approx(2 / 3)
    assert malignancy.free_marginal_kappa == pytest.approx((2 / 3 - 1 / 5) / (4 / 5))
    by_chance = (4 + 1 + 1 + 4) / 36
    assert malignancy.fleiss_kappa == pytest.approx((2 / 3 - by_chance) / (1 - by_chance))
    # Ordinal ranks by the middle of each category: 1, 2.5, 3.5, 5; observed 2·1 / 6, expected over all 30 pairs.
    ranks = [1, 1, 2.5, 3.5, 5, 5]
    expected = sum((a - b) ** 2 for a in ranks for b in ranks) / 30
    assert malignancy.krippendorff_alpha == pytest.approx(1 - (2 / 6) / expected)
    assert "remark" not in [answers.question for answers in study_reliability(NODULE, cases).answers]


def test_fleiss_kappa_is_over_the_cases_with_the_commonest_number_of_answers() -> None:
    cases = [answered("c1", ann=1, ben=1, cid=2), answered("c2", ann=1, ben=2), answered("c3", ann=2, ben=2)]
    malignancy = of_question(study_reliability(NODULE, cases), "malignancy")
    # c2 and c3: 1 of 2 agree, shares 1/4 and 3/4.
    assert malignancy.fleiss_kappa == pytest.approx((1 / 2 - 10 / 16) / (6 / 16))
    assert malignancy.answers == 7


def test_a_question_that_all_answered_alike_has_agreement_and_no_coefficient_but_the_free_one() -> None:
    malignancy = of_question(study_reliability(NODULE, [answered("c1", ann=3, ben=3)]), "malignancy")
    assert (malignancy.agreement, malignancy.krippendorff_alpha, malignancy.fleiss_kappa) == (1.0, None, None)
    assert malignancy.free_marginal_kappa == 1.0


def test_a_study_without_reads_has_no_numbers() -> None:
    found = study_reliability(NODULE, [])
    assert of_question(found, "malignancy").agreement is None
    assert (found.volumes[0].icc, found.volumes[0].pairs, found.lesions[0].f1) == (None, (), None)


def test_lesions_are_counted_over_cases_by_who_found_them() -> None:
    both, one = label([(1, 0, 3), (1, 5, 8)]), label([(1, 0, 3)])
    first = assess(NODULE, {"a": both, "b": both, "c": one})
    second = assess(NODULE, {"a": one, "b": one, "c": one})
    nodule, micronodule = study_reliability(
        NODULE, [CaseReads(case="c1", verdict=first), CaseReads(case="c2", verdict=second), CaseReads(case="c3")]
    ).lesions
    assert (nodule.cases, nodule.lesions, nodule.found_by_all) == (2, 3, 2)
    # Pairs agree on all, a third, all of the lesions: 7/9 less a half by chance.
    assert nodule.free_marginal_kappa == pytest.approx((7 / 9 - 1 / 2) * 2)
    # F1 of the pairs: of case 1 2·2/4, 2·1/3 and 2·1/3, of case 2 2·1/2 three times; pooled 14 of 16.
    assert nodule.f1 == pytest.approx(14 / 16)
    assert (micronodule.lesions, micronodule.free_marginal_kappa, micronodule.f1) == (0, None, None)


def test_the_order_of_cases_and_readers_changes_nothing() -> None:
    cases = [measured("c1", ann=1.0, ben=1.4), measured("c2", ann=2.0, ben=2.1), answered("c3", ann=1, ben=3)]
    turned = [
        CaseReads(
            case=reads.case,
            volumes_ml=dict(reversed(reads.volumes_ml.items())),
            answers=dict(reversed(reads.answers.items())),
        )
        for reads in reversed(cases)
    ]
    assert study_reliability(NODULE, turned) == study_reliability(NODULE, cases)
    assert study_reliability(HIPPOCAMPUS, turned) == study_reliability(HIPPOCAMPUS, cases)
