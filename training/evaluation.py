"""How good a model is on cases it has not seen: predictions and truths in, an `Evaluation` of explicit numbers out.

A structure that the truth has and the model did not draw is a miss: Dice 0, no HD95, and counted. One that the model
invented scores Dice 0 too. Nothing that cannot be measured is left out of a mean unnoticed.
"""

import json
import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import numpy as np

from labeling_protocols.agreement import dice, hd95_mm
from labeling_protocols.geometry import Volume


@dataclass(frozen=True, kw_only=True)
class Score:
    """One structure of one case; HD95 is None where only one side has the structure."""

    case: str
    structure: str
    dice: float
    hd95_mm: float | None
    truth_voxels: int
    predicted_voxels: int

    @property
    def missed(self) -> bool:
        return self.truth_voxels > 0 and self.predicted_voxels == 0

    @property
    def invented(self) -> bool:
        return self.truth_voxels == 0 and self.predicted_voxels > 0


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores of every structure of every case that was looked at."""

    scores: tuple[Score, ...]

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
        means = {case: statistics.fmean(s.dice for s in self.scores if s.case == case) for case in sorted(self.cases)}
        return dict(sorted(means.items(), key=lambda item: item[1]))

    def as_json(self) -> str:
        summary = {
            "cases": len(self.cases),
            "dice": self.dice,
            "dice_mean": self.dice_mean,
            "hd95_median_mm": self.hd95_median_mm,
            "missed": self.missed,
            "invented": self.invented,
        }
        return json.dumps({"summary": summary, "scores": [asdict(score) for score in self.scores]}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Evaluation":
        return cls(scores=tuple(Score(**score) for score in json.loads(text)["scores"]))

    def _by_structure(self) -> dict[str, list[Score]]:
        names = dict.fromkeys(score.structure for score in self.scores)
        return {name: [score for score in self.scores if score.structure == name] for name in names}


def evaluate(
    predict: Callable[[Volume], Volume],
    cases: Iterable[tuple[str, Volume, Volume]],
    values: dict[str, int],
    seen: Callable[[str, Volume, Volume, Volume], None] = lambda case, image, truth, predicted: None,
) -> Evaluation:
    """Predict each case (id, image, truth) and score it on the image's own grid; `seen` is shown every prediction."""
    scores: list[Score] = []
    for case, image, truth in cases:
        predicted = predict(image)
        scores += score_case(case, truth, predicted, values)
        seen(case, image, truth, predicted)
    return Evaluation(scores=tuple(scores))


def score_case(case: str, truth: Volume, predicted: Volume, values: dict[str, int]) -> list[Score]:
    """One score a structure; raises `ValueError` where the prediction does not lie on the truth's grid."""
    if difference := truth.geometry.difference(predicted.geometry):
        raise ValueError(f"the prediction of case {case} does not lie on its truth's grid: {difference}")
    scores = []
    for name, value in values.items():
        ours, theirs = predicted.array_ZYX == value, truth.array_ZYX == value
        scores.append(
            Score(
                case=case,
                structure=name,
                dice=dice(ours, theirs),
                hd95_mm=hd95_mm(ours, theirs, truth.geometry.spacing_mm_ZYX),
                truth_voxels=int(np.count_nonzero(theirs)),
                predicted_voxels=int(np.count_nonzero(ours)),
            )
        )
    return scores
