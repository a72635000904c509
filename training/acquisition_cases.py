"""What is known of a case before it is read, and where it comes in the order: the values that strategies work on."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray


class AcquisitionError(ValueError):
    """An order that cannot be made: what was found, what was expected; nothing was ordered."""


@dataclass(frozen=True, kw_only=True)
class CaseEvidence:
    """What a model says of one case.

    `samples` are the probabilities of S views or members, (S, C, X, Y, Z), background first: any grid will do, and the
    network's own is the cheapest. `features` (F,) are the network's deepest layer, pooled over the image, or an image's
    plain statistics where there is no network. `seconds` is how long a read of the case is expected to take,
    `reader_disagreement` (0 to 1) how much readers disagreed on settled cases like this one. None is "not known".
    """

    case: str
    samples: NDArray[np.float32] | None = None
    features: NDArray[np.float32] | None = None
    seconds: float | None = None
    reader_disagreement: float | None = None


@dataclass(frozen=True, kw_only=True)
class CaseSummary:
    """The small numbers kept of a `CaseEvidence`: a worklist of 20,000 cases never holds probability maps.

    By structure, empty where there were no samples: `entropy` and `mutual_information` are means over the voxels of the
    structure, each weighed by its probability, in units of the greatest possible entropy (0 to 1), so that a small
    structure counts as much as a large one; `disagreement` is the mean of 1 - Dice over all pairs of samples (0 to 1);
    `voxels` is how many voxels the samples' mean gives the structure. Every number is finite, and 0 where there is
    nothing of a structure.
    """

    case: str
    entropy: Mapping[str, float] = field(default_factory=dict)
    mutual_information: Mapping[str, float] = field(default_factory=dict)
    disagreement: Mapping[str, float] = field(default_factory=dict)
    voxels: Mapping[str, float] = field(default_factory=dict)
    features: tuple[float, ...] = ()
    seconds: float | None = None
    reader_disagreement: float | None = None

    @property
    def structures(self) -> tuple[str, ...]:
        return tuple(self.entropy)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "CaseSummary":
        return cls(**{**stored, "features": tuple(stored["features"])})


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A case in its place: `score` is higher the sooner it comes, and compares within one order only.

    `why` is a plain sentence for the reader who is given the case. It may name a structure that the model saw or is
    unsure of, and says nothing of other readers.
    """

    case: str
    score: float
    why: str


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What `rank` was asked, cases and read ones by id."""

    cases: tuple[CaseSummary, ...]
    seed: int
    budget_s: float | None
    read: tuple[CaseSummary, ...]
    progress: float
    titles: Mapping[str, str]

    def title(self, structure: str) -> str:
        return self.titles.get(structure, structure)

    @property
    def structures(self) -> tuple[str, ...]:
        return tuple(sorted({name for summary in self.cases for name in summary.structures}))

    def seconds(self) -> list[float]:
        """What each case is expected to take; the median of the others where that is not known."""
        known = [summary.seconds for summary in self.cases if summary.seconds]
        middle = median(known) if known else 1.0
        return [summary.seconds or middle for summary in self.cases]

    def chance(self, what: str) -> list[float]:
        """A number between 0 and 1 by case, the same whichever other cases there are."""
        return [chance_of(f"{self.seed}/{what}/{summary.case}") for summary in self.cases]


def chance_of(of: str) -> float:
    """Evenly between 0 and 1, neither of them, from a text."""
    number = int.from_bytes(hashlib.sha256(of.encode()).digest()[:6], "big")
    return (number + 0.5) / 2**48
