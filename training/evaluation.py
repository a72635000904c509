"""How good a model's outlines are on cases it has not seen: predictions and truths in, explicit numbers out.

A structure that the truth has and the model did not draw is a miss: Dice and surface Dice 0, no distances, and counted.
One that the model invented scores 0 too. Nothing that cannot be measured is left out of a mean unnoticed.
"""

import json
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from labeling_protocols.agreement import outline_agreements
from labeling_protocols.geometry import Volume
from labeling_protocols.label import Label
from labeling_protocols.protocol import Protocol
from training.probabilities import Reliability, voxel_reliability

# Where a protocol names no tolerance. In millimetres and not in voxels, so that a figure means the same of every case.
SURFACE_TOLERANCE_MM = 2.0

Probabilities = Iterable[tuple[str, NDArray[np.floating[Any]]]]
Drawn = TypeVar("Drawn", Volume, Label)
Shown = TypeVar("Shown")  # what a model is shown of a case: its image, or its channels


@dataclass(frozen=True, kw_only=True)
class Score:
    """One structure of one case, as `labeling_protocols.agreement` defines the numbers.

    Distances are None where only one side has the structure. `volume_difference_ml` is the prediction's volume less the
    truth's. What came after the first evaluations were stored is None in those.
    """

    case: str
    structure: str
    dice: float
    hd95_mm: float | None
    truth_voxels: int
    predicted_voxels: int
    surface_dice: float | None = None
    average_surface_distance_mm: float | None = None
    volume_difference_ml: float | None = None

    @property
    def missed(self) -> bool:
        return self.truth_voxels > 0 and self.predicted_voxels == 0

    @property
    def invented(self) -> bool:
        return self.truth_voxels == 0 and self.predicted_voxels > 0

    @property
    def volume_error(self) -> float | None:
        """What was drawn too much, as a share of the truth's volume, -1 for a miss; None where the truth has none."""
        return (self.predicted_voxels - self.truth_voxels) / self.truth_voxels if self.truth_voxels else None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores of every structure of every case that was looked at.

    `tolerance_mm` are the surface Dice's by structure. `calibration` are sums over voxels by case and structure, empty
    where the model's probabilities were not asked for.
    """

    scores: tuple[Score, ...]
    tolerance_mm: Mapping[str, float] = field(default_factory=dict)
    calibration: Mapping[str, Mapping[str, Reliability]] = field(default_factory=dict)

    @property
    def cases(self) -> frozenset[str]:
        return frozenset(score.case for score in self.scores)

    @property
    def dice(self) -> dict[str, float]:
        """Mean Dice over the cases by structure, misses and inventions counted as 0."""
        return {name: statistics.fmean(s.dice for s in scores) for name, scores in self._by_structure().items()}

    @property
    def dice_mean(self) -> float:
        """Mean over the structures of their mean Dice; 0 where nothing was scored."""
        return statistics.fmean(self.dice.values()) if self.scores else 0.0

    @property
    def hd95_median_mm(self) -> dict[str, float | None]:
        """Median HD95 by structure over the cases that have one; None where none has."""
        found = {
            name: [s.hd95_mm for s in scores if s.hd95_mm is not None] for name, scores in self._by_structure().items()
        }
        return {name: statistics.median(values) if values else None for name, values in found.items()}

    @property
    def missed(self) -> int:
        return sum(score.missed for score in self.scores)

    @property
    def invented(self) -> int:
        return sum(score.invented for score in self.scores)

    def case_dice(self) -> dict[str, float]:
        """Mean Dice over the structures by case, worst first."""
        means = {case: statistics.fmean(s.dice for s in scores) for case, scores in self.by_case().items()}
        return dict(sorted(means.items(), key=lambda item: (item[1], item[0])))

    def by_case(self) -> dict[str, list[Score]]:
        """Each case's scores, in the structures' order."""
        found: dict[str, list[Score]] = {}
        for score in self.scores:
            found.setdefault(score.case, []).append(score)
        return found

    def reliability(self) -> dict[str, Reliability]:
        """Sums over all cases' voxels by structure, for reliability diagrams."""
        found: dict[str, Reliability] = {}
        for of_case in self.calibration.values():
            for name, sums in of_case.items():
                found[name] = found[name] + sums if name in found else sums
        return found

    def as_json(self) -> str:
        summary = {
            "cases": len(self.cases),
            "dice": self.dice,
            "dice_mean": self.dice_mean,
            "hd95_median_mm": self.hd95_median_mm,
            "missed": self.missed,
            "invented": self.invented,
        }
        return json.dumps({"summary": summary, **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Evaluation":
        stored = json.loads(text)
        return cls(
            scores=tuple(Score(**score) for score in stored["scores"]),
            tolerance_mm=stored.get("tolerance_mm", {}),
            calibration={
                case: {name: Reliability.from_json(sums) for name, sums in of_case.items()}
                for case, of_case in stored.get("calibration", {}).items()
            },
        )

    def _by_structure(self) -> dict[str, list[Score]]:
        names = dict.fromkeys(score.structure for score in self.scores)
        return {name: [score for score in self.scores if score.structure == name] for name in names}


def surface_tolerances_mm(protocol: Protocol) -> dict[str, float]:
    """How far apart surfaces count as the same, by outlined structure: the protocol's, else `SURFACE_TOLERANCE_MM`."""
    limits = protocol.agreement
    return {name: limits[name].surface_tolerance_mm or SURFACE_TOLERANCE_MM for name in protocol.values}


def evaluate(
    predict: Callable[[Shown], Volume],
    cases: Iterable[tuple[str, Shown, Drawn]],
    values: Mapping[str, int],
    seen: Callable[[str, Shown, Drawn, Volume], None] = lambda case, image, truth, predicted: None,
    *,
    tolerance_mm: Mapping[str, float] | None = None,
    probabilities: Callable[[Shown], Probabilities] | None = None,
) -> Evaluation:
    """Predict each case (id, image, truth) and score it on the image's own grid; `seen` is shown every prediction.

    A truth whose structures overlap is a `Label`. `probabilities` gives an image's foreground probabilities, one
    structure after the other on the image's grid; it is asked right after `predict` of the same image.
    """
    tolerances = {name: (tolerance_mm or {}).get(name, SURFACE_TOLERANCE_MM) for name in values}
    scores: list[Score] = []
    calibration: dict[str, dict[str, Reliability]] = {}
    for case, image, truth in cases:
        predicted = predict(image)
        scores += score_case(case, truth, predicted, values, tolerances)
        if probabilities is not None:
            calibration[case] = calibrate_case(truth, predicted, values, probabilities(image))
        seen(case, image, truth, predicted)
    return Evaluation(scores=tuple(scores), tolerance_mm=tolerances, calibration=calibration)


def score_case(
    case: str,
    truth: Volume | Label,
    predicted: Volume | Label,
    values: Mapping[str, int],
    tolerance_mm: Mapping[str, float] | None = None,
) -> list[Score]:
    """One score a structure; raises `ValueError` where the prediction does not lie on the truth's grid."""
    if difference := truth.geometry.difference(predicted.geometry):
        raise ValueError(f"the prediction of case {case} does not lie on its truth's grid: {difference}")
    ours, theirs = _label(predicted), _label(truth)
    tolerances = {value: (tolerance_mm or {}).get(name, SURFACE_TOLERANCE_MM) for name, value in values.items()}
    layers_of_both = (ours.layers_LZYX, theirs.layers_LZYX)
    measured = outline_agreements(layers_of_both, list(values.values()), truth.geometry.spacing_mm_ZYX, tolerances)
    scores = []
    for name, value in values.items():
        agreement = measured[value][0, 1]
        scores.append(
            Score(
                case=case,
                structure=name,
                dice=agreement.dice,
                hd95_mm=agreement.hd95_mm,
                truth_voxels=int(np.count_nonzero(theirs.mask_ZYX(value))),
                predicted_voxels=int(np.count_nonzero(ours.mask_ZYX(value))),
                surface_dice=agreement.surface_dice,
                average_surface_distance_mm=agreement.average_surface_distance_mm,
                volume_difference_ml=agreement.volume_difference_ml,
            )
        )
    return scores


def calibrate_case(
    truth: Volume | Label, predicted: Volume | Label, values: Mapping[str, int], probabilities: Probabilities
) -> dict[str, Reliability]:
    """Sums over the voxels of each structure that probabilities are given of, around truth and prediction."""
    ours, theirs = _label(predicted), _label(truth)
    return {
        name: voxel_reliability(probability_ZYX, theirs.mask_ZYX(values[name]), ours.mask_ZYX(values[name]))
        for name, probability_ZYX in probabilities
    }


def _label(drawn: Volume | Label) -> Label:
    return drawn if isinstance(drawn, Label) else Label.of(drawn)
