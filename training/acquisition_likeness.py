"""What to expect of a case from those like it that were read: features and what was measured in, a value each out."""

from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np
from scipy.spatial.distance import cdist

from training.acquisition_cases import CaseSummary
from training.acquisition_diversity import standardised

_NEIGHBOURS = 5
_LEAST_KNOWN = 10  # below this many, likeness says less than the middle of all


def expected_seconds(
    cases: Sequence[CaseSummary], read: Sequence[CaseSummary], measured_s: Mapping[str, float]
) -> dict[str, float]:
    """How long a read of each case should take: as one of the same case did, else as those most like it did.

    `measured_s` are seconds a read by case. Where too few cases with features were measured it is the median of all;
    empty where none was.
    """
    if not measured_s:
        return {}
    middle = median(measured_s.values())
    alike = _mean_of_nearest(cases, read, measured_s)
    return {one.case: measured_s.get(one.case, alike.get(one.case, middle)) for one in cases}


def expected_disagreement(
    cases: Sequence[CaseSummary],
    read: Sequence[CaseSummary],
    disputed: Mapping[str, float],
    patients: Mapping[str, str],
) -> dict[str, float]:
    """How likely readers are to disagree (0 to 1), from other cases: the patient's own, and those most like it.

    `disputed` is 1 for cases that came into dispute and 0 for those agreed on; `patients` has every case's. What became
    of the case itself never counts: it would tell whoever is given it next. Cases nothing is known of are left out.
    """
    of_patient: dict[str, list[str]] = {}
    for case in disputed:
        of_patient.setdefault(patients[case], []).append(case)
    alike = _mean_of_nearest(cases, read, disputed)
    found = {}
    for one in cases:
        own = [disputed[case] for case in of_patient.get(patients[one.case], ()) if case != one.case]
        signs = [*([sum(own) / len(own)] if own else []), *([alike[one.case]] if one.case in alike else [])]
        if signs:
            found[one.case] = sum(signs) / len(signs)
    return found


def _mean_of_nearest(
    cases: Sequence[CaseSummary], read: Sequence[CaseSummary], values: Mapping[str, float]
) -> dict[str, float]:
    """The mean over the nearest cases with a value, each case itself left out; empty where few have one."""
    with_features = [one for one in cases if one.features]
    known = [one for one in read if one.features and one.case in values]
    if len(known) < _LEAST_KNOWN or not with_features:
        return {}
    points, others = standardised(with_features, known)
    told = np.array([values[one.case] for one in known])
    found = {}
    for point, one in zip(points, with_features, strict=True):
        apart = cdist(point[np.newaxis], others)[0]
        apart[[other.case == one.case for other in known]] = np.inf
        found[one.case] = float(told[np.argsort(apart, kind="stable")[:_NEIGHBOURS]].mean())
    return found
