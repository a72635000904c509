"""How good a detection is on cases it has not seen: findings and truths in, scores and the evaluation report out.

Figures of the report, of all structures together and, where there are several, by structure ("froc/nodule"):

- "sensitivity_at_0.5_fp", "sensitivity_at_1_fp": at so many false positives a study; "froc": the mean of those at 1/8,
  1/4, 1/2, 1, 2, 4 and 8 (`training/froc.py`).
- "map": mean average precision over IoUs of 0.1, 0.15, … 0.5 and the structures; "ap_at_iou_0.1" at that IoU alone.
- "sensitivity", "missed", "invented": of the findings that are shown, from the model's operating point on; "clear": the
  share of the studies with nothing to find in which nothing is shown.

Nothing that was missed is left out: a true box that no finding hits counts against every sensitivity, and a study in
which there is nothing to find counts among the studies, so that its false positives do too.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labeling_protocols.geometry import Geometry
from labeling_protocols.label import Box, Label
from labeling_protocols.protocol_parts import AgreementLimits
from labeling_protocols.strata import Strata
from training.detection_boxes import Finding, true_boxes
from training.detection_network import FOUND_MAX
from training.froc import FROC_RATES, Hit, average_precisions, froc_curve, hits_of, ranked, score_limit, sensitivities
from training.intervals import Drawn, Figure, Times
from training.report import Champion, EvaluationReport, KnownCase, build_report

TASK = "detection"
PRINCIPAL = "froc"
IOUS = tuple(round(0.1 + 0.05 * step, 2) for step in range(9))  # of mAP, as in nnDetection
_RATES = (0.5, 1.0)

_Bools = NDArray[np.bool_]
_Floats = NDArray[np.float64]
_Counts = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class StructureScore:
    """What was found of one structure in one study, most certain first, `FOUND_MAX` at most.

    `truths` is how many there are to find, `shown` how many findings reach the operating point. `hits` are by what the
    protocol calls the same finding, `overlapping` (IoU, finding) by each IoU of `IOUS`.
    """

    truths: int
    shown: int
    scores: _Floats
    hits: _Bools
    overlapping: _Bools

    def as_json(self) -> dict[str, Any]:
        return {
            "truths": self.truths,
            "shown": self.shown,
            "scores": self.scores.tolist(),
            "hits": self.hits.tolist(),
            "overlapping": self.overlapping.tolist(),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "StructureScore":
        scores = np.array(stored["scores"], dtype=np.float64)
        return cls(
            truths=stored["truths"],
            shown=stored["shown"],
            scores=scores,
            hits=np.array(stored["hits"], dtype=np.bool_),
            overlapping=np.array(stored["overlapping"], dtype=np.bool_).reshape(len(IOUS), len(scores)),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class DetectionScores:
    """What a model found, by case and structure."""

    cases: Mapping[str, Mapping[str, StructureScore]]

    def as_json(self) -> str:
        found = {case: {name: one.as_json() for name, one in of.items()} for case, of in self.cases.items()}
        return json.dumps({"cases": found})

    @classmethod
    def from_json(cls, text: str) -> "DetectionScores":
        found = json.loads(text)["cases"]
        return cls(
            cases={case: {name: StructureScore.from_json(o) for name, o in of.items()} for case, of in found.items()}
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class DetectedCase:
    """One case with what a model found in it, by structure."""

    case: str
    patient: str
    strata: Strata
    structures: Mapping[str, StructureScore]


def hit_of(limits: AgreementLimits) -> Hit:
    """When a finding counts as found: what the protocol says of two readers' findings."""
    return Hit(iou_min=limits.match_iou_min, mm_max=None if limits.match_iou_min else limits.match_mm_max)


def score_findings(
    findings: Sequence[Finding],
    truth: Label,
    values: Mapping[str, int],
    hits: Mapping[str, Hit],
    *,
    operating_point: float,
) -> dict[str, StructureScore]:
    """One case's findings against the boxes of its truth, by structure (name to voxel value).

    `hits` says for each structure what counts as found; findings of `operating_point` or more are those shown.
    """
    boxes = true_boxes(truth, values)
    structures = {}
    for name in values:
        of_it = sorted((one for one in findings if one.box.structure == name), key=lambda one: -one.score)[:FOUND_MAX]
        found = _corners([one.box for one in of_it], truth.geometry)
        true = _corners([box for box in boxes if box.structure == name], truth.geometry)
        structures[name] = StructureScore(
            truths=len(true),
            shown=sum(one.score >= operating_point for one in of_it),
            scores=np.array([one.score for one in of_it], dtype=np.float64),
            hits=hits_of(found, true, hits[name]),
            overlapping=np.stack([hits_of(found, true, Hit(iou_min=iou)) for iou in IOUS]),
        )
    return structures


def detection_report(
    scores: DetectionScores,
    cases: Iterable[KnownCase],
    *,
    model: str,
    test_set: str,
    champion: tuple[str, DetectionScores] | None = None,
    human: Sequence[Figure] = (),
    notes: Sequence[str] = (),
) -> EvaluationReport:
    """The report of these scores, compared with the champion of this name where one is given.

    Raises `ValueError` where a scored case is not among `cases`, or the champion was scored on others.
    """
    known = {one.case: one for one in cases}
    statistic = DetectionStatistic()
    return build_report(
        _detected(scores, known),
        statistic,
        task=TASK,
        model=model,
        test_set=test_set,
        principal=PRINCIPAL,
        values=lambda one: statistic([one]),
        champion=Champion(name=champion[0], scored=_detected(champion[1], known)) if champion else None,
        human=human,
        notes=notes,
    )


def choose_operating_point(scores: DetectionScores, false_positives: float = 1.0) -> float:
    """The lowest score at which there are at most so many false positives a study; 0 where there are never more.

    To be chosen on validation cases, never on those of the report.
    """
    found = _together([*scores.cases.values()])
    together = ranked([study.scores for study in found], [study.hits for study in found])
    return score_limit(together, len(found), false_positives) or 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class FrocCurve:
    """False positives a study and sensitivity by falling score, from (0, 0); `shown` is the operating point's."""

    rates: _Floats
    sensitivity: _Floats
    shown: tuple[float, float]


def curve_of(scores: DetectionScores, structure: str | None = None) -> FrocCurve | None:
    """The FROC curve of one structure, or of all together; None where nothing is there to be found."""
    cases = scores.cases.values()
    studies = _together([*cases]) if structure is None else [of[structure] for of in cases if structure in of]
    truths = sum(study.truths for study in studies)
    if not truths:
        return None
    together = ranked([one.scores for one in studies], [one.hits for one in studies])
    rates, sensitivity = froc_curve(together, truths, len(studies))
    true = sum(int(np.count_nonzero(one.hits[: one.shown])) for one in studies)
    false = sum(one.shown for one in studies) - true
    return FrocCurve(rates=rates, sensitivity=sensitivity, shown=(false / len(studies), true / truths))


class DetectionStatistic:
    """The report's figures of any sample of scored cases, or of many samples at once."""

    def __call__(self, scored: Sequence[DetectedCase]) -> dict[str, float | None]:
        found = self.resampled(scored, np.ones((1, len(scored)), dtype=np.int64))
        return {name: None if np.isnan(values[0]) else float(values[0]) for name, values in found.items()}

    def resampled(self, scored: Sequence[DetectedCase], times: Times) -> Drawn:
        names = list(dict.fromkeys(name for one in scored for name in one.structures))
        of_each = {name: [one.structures[name] for one in scored] for name in names}
        precisions = {name: _precisions(of_it, times) for name, of_it in of_each.items()}
        figures = {**_found(_together([one.structures for one in scored]), times), **_averaged(precisions)}
        if len(names) > 1:
            for name, of_it in of_each.items():
                own = {**_found(of_it, times), **_averaged({name: precisions[name]})}
                figures |= {f"{figure}/{name}": values for figure, values in own.items()}
        return figures


def _found(studies: Sequence[StructureScore], times: Times) -> dict[str, _Floats]:
    """Figures of one structure, or of all as one, by draw; `studies` are by case."""
    together = ranked([study.scores for study in studies], [study.hits for study in studies])
    truths = np.array([study.truths for study in studies], dtype=np.int64)
    true = np.array([np.count_nonzero(study.hits[: study.shown]) for study in studies], dtype=np.int64)
    false = np.array([study.shown for study in studies], dtype=np.int64) - true
    by_rate = sensitivities(together, truths, times, (*_RATES, *FROC_RATES))
    empty = truths == 0
    return {
        **{f"sensitivity_at_{rate:g}_fp": by_rate[:, place] for place, rate in enumerate(_RATES)},
        "froc": by_rate[:, len(_RATES) :].mean(axis=1),
        "sensitivity": _share(times @ true, times @ truths),
        "missed": (times @ (truths - true)).astype(np.float64),
        "invented": (times @ false).astype(np.float64),
        "clear": _share(times @ (empty & (false == 0)), times @ empty),
    }


def _together(studies: Sequence[Mapping[str, StructureScore]]) -> list[StructureScore]:
    """Each study with the findings of all its structures, most certain first."""
    pooled = []
    for of_study in studies:
        parts = [*of_study.values()]
        scores = np.concatenate([one.scores for one in parts])
        order = np.argsort(-scores, kind="stable")
        pooled.append(
            StructureScore(
                truths=sum(one.truths for one in parts),
                shown=sum(one.shown for one in parts),
                scores=scores[order],
                hits=np.concatenate([one.hits for one in parts])[order],
                overlapping=np.concatenate([one.overlapping for one in parts], axis=1)[:, order],
            )
        )
    return pooled


def _precisions(studies: Sequence[StructureScore], times: Times) -> _Floats:
    """Average precision of one structure by IoU and draw."""
    truths = np.array([study.truths for study in studies], dtype=np.int64)
    scores = [study.scores for study in studies]
    by_iou = [ranked(scores, [study.overlapping[place] for study in studies]) for place in range(len(IOUS))]
    return np.stack([average_precisions(found, truths, times) for found in by_iou])


def _averaged(precisions: Mapping[str, _Floats]) -> dict[str, _Floats]:
    """Means over the structures that are there to be found in a draw; NaN where none is."""
    by_structure = np.stack([*precisions.values()])
    there = ~np.isnan(by_structure)
    mean = _share(np.nan_to_num(by_structure).sum(axis=0), there.sum(axis=0))
    return {"map": mean.mean(axis=0), f"ap_at_iou_{IOUS[0]:g}": mean[0]}


def _share(part: _Floats | _Counts, whole: _Counts) -> _Floats:
    """NaN where there is nothing to have a share of."""
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=np.greater(whole, 0))


def _detected(scores: DetectionScores, known: Mapping[str, KnownCase]) -> list[DetectedCase]:
    if foreign := sorted(set(scores.cases) - set(known)):
        raise ValueError(
            f"{len(foreign)} of {len(scores.cases)} scored cases are not among the test set's, such as {foreign[0]}."
            " No report was made."
        )
    return [
        DetectedCase(case=case, patient=known[case].patient, strata=known[case].strata, structures=structures)
        for case, structures in scores.cases.items()
    ]


def _corners(boxes: Sequence[Box], geometry: Geometry) -> _Floats:
    """Corners in millimetres along the image's axes, (n, 6)."""
    centres = np.array([box.centre_mm_LPS for box in boxes]).reshape(-1, 3) @ np.reshape(geometry.direction_LPS, (3, 3))
    halves = np.array([box.size_mm_XYZ for box in boxes]).reshape(-1, 3) / 2.0
    return np.concatenate([centres - halves, centres + halves], axis=1)
