"""The orders that strategies make: all that is asked in, the cases in their order with a sentence each out."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count, cycle
from statistics import median

import numpy as np
from numpy.typing import NDArray

from training import acquisition_diversity as diversity
from training.acquisition_cases import Asked, CaseSummary, Scored, chance_of

# Two of three draws are for a structure, as nnActive's better random baseline takes 66 % of its patches from the
# foreground, the class drawn evenly (Lüth et al. 2025, arXiv:2511.19183).
_FOREGROUND_OF = 3
_BETA_FIRST, _BETA_LAST = 1.0, 100.0  # from much chance to nearly none
_LEAST = 1e-12  # of a score whose logarithm is taken
_BATCH = 20  # cases to choose together where no budget says how many

_Floats = NDArray[np.float64]
Measure = Callable[[CaseSummary], Mapping[str, float]]


def random(asked: Asked) -> list[Scored]:
    drawn = zip(asked.cases, asked.chance("random"), strict=True)
    return _descending((summary, chance, "Drawn at random.") for summary, chance in drawn)


def sequential(asked: Asked) -> list[Scored]:
    return _placed((summary, "Next in order.") for summary in asked.cases)


def foreground_random(asked: Asked) -> list[Scored]:
    """One of three draws is among all cases, two are among those the model sees a structure in, the structure drawn."""
    shuffled = _shuffled(asked, "random")
    queues = {name: deque(s for s in shuffled if s.voxels.get(name, 0) > 0) for name in asked.structures}
    everything = deque(shuffled)
    return _placed(_draws(asked, everything, queues))


def _draws(
    asked: Asked, everything: deque[CaseSummary], queues: dict[str, deque[CaseSummary]]
) -> Iterator[tuple[CaseSummary, str]]:
    taken: set[str] = set()
    for turn in count():
        drawn = chance_of(f"{asked.seed}/turn/{turn}") * _FOREGROUND_OF
        name = _drawn_structure(asked, queues, turn) if drawn >= 1 else None
        queue = everything if name is None else queues[name]
        while queue and queue[0].case in taken:
            queue.popleft()
        if queue:
            summary = queue.popleft()
            taken.add(summary.case)
            among = "" if name is None else f" among the cases in which the model sees {asked.title(name)}"
            yield summary, f"Drawn at random{among}."
        elif name is None:
            return


def _drawn_structure(asked: Asked, queues: Mapping[str, deque[CaseSummary]], turn: int) -> str | None:
    """A structure that is left in some case, each as likely; None where there is none."""
    left = [name for name in asked.structures if queues[name]]
    return left[int(chance_of(f"{asked.seed}/structure/{turn}") * len(left))] if left else None


def predictive_entropy(asked: Asked) -> list[Scored]:
    return _most(asked, lambda s: s.entropy, "The model is unsure of {} here.")


def bald(asked: Asked) -> list[Scored]:
    return _most(asked, lambda s: s.mutual_information, "Views of this case make the model change its mind on {}.")


def ensemble_disagreement(asked: Asked) -> list[Scored]:
    return _most(asked, lambda s: s.disagreement, "The model outlines {} differently from view to view.")


def clasp_pe(asked: Asked) -> list[Scored]:
    """Class-stratified, scheduled power predictive entropy (ClaSP PE, Lüth et al. 2026, arXiv:2601.13677).

    Places go to one structure after the other, and every third to all structures together; each takes its best case
    left. Best is by the logarithm of the entropy with Gumbel noise (power acquisition, Kirsch et al. 2023,
    arXiv:2106.12059), whose share shrinks as annotation goes on. The paper chooses patches; cases are chosen here, and
    the shares and the schedule are ours.
    """
    beta = _BETA_FIRST * (_BETA_LAST / _BETA_FIRST) ** asked.progress
    names = sorted(asked.structures, key=lambda name: chance_of(f"{asked.seed}/stratum/{name}"))
    whole = "all structures together"
    noise = _gumbel(asked, beta)
    queues: dict[str, deque[CaseSummary]] = {}
    for name in (*names, whole):
        scores = [_mean(s.entropy) if name == whole else s.entropy.get(name, 0.0) for s in asked.cases]
        keys = [math.log(max(score, _LEAST)) + extra for score, extra in zip(scores, noise, strict=True)]
        queues[name] = deque(s for _, _, s in sorted(zip((-k for k in keys), _ids(asked), asked.cases, strict=True)))
    return _placed(_in_turn(asked, names, whole, queues))


def _in_turn(
    asked: Asked, names: Sequence[str], whole: str, queues: Mapping[str, deque[CaseSummary]]
) -> Iterator[tuple[CaseSummary, str]]:
    taken: set[str] = set()
    each = cycle(names)
    for turn in range(len(asked.cases)):
        name = whole if turn % _FOREGROUND_OF == _FOREGROUND_OF - 1 else next(each)
        while queues[name][0].case in taken:
            queues[name].popleft()
        summary = queues[name].popleft()
        taken.add(summary.case)
        yield (
            summary,
            f"The model is unsure of {_unsure_of(asked, summary) if name == whole else asked.title(name)} here.",
        )


def k_centre(asked: Asked) -> list[Scored]:
    points, read = diversity.standardised(asked.cases, asked.read)
    found = diversity.centres(points, read)
    return [Scored(case=asked.cases[at].case, score=apart, why="Unlike the cases before it.") for at, apart in found]


def typicality(asked: Asked) -> list[Scored]:
    """TypiClust (Hacohen et al. 2022, arXiv:2202.02794): the most typical case of each cluster in turn.

    Clusters of which least was read come first, then larger ones.
    """
    points, read = diversity.standardised(asked.cases, asked.read)
    everything = np.concatenate([points, read])
    wanted = len(read) + _batch(asked)
    clusters = diversity.clusters_of(everything, min(wanted, diversity.CLUSTERS_MAX), asked.seed)
    typical = diversity.typicality(everything, clusters)
    of_cases, of_read = clusters[: len(points)], clusters[len(points) :]
    queues: list[deque[CaseSummary]] = []
    first = sorted(
        np.unique(of_cases), key=lambda c: (np.count_nonzero(of_read == c), -np.count_nonzero(of_cases == c), c)
    )
    for cluster in first:
        members = np.flatnonzero(of_cases == cluster)
        queues.append(deque(asked.cases[at] for at in sorted(members, key=lambda at: (-typical[at], at))))
    order: list[CaseSummary] = []
    while len(order) < len(points):
        order += [queue.popleft() for queue in queues if queue]
    return _placed((summary, "Typical of its kind of case.") for summary in order)


def reader_disagreement(asked: Asked) -> list[Scored]:
    """Cases like those readers disagreed on. The sentence must not say so: no reader learns of others' reads."""
    known = [s.reader_disagreement for s in asked.cases if s.reader_disagreement is not None]
    middle = sum(known) / len(known) if known else 0.0
    difficult, nothing_known = "Cases of this kind are known to be difficult.", "Next in order."
    return _descending(
        (s, middle, nothing_known)
        if s.reader_disagreement is None
        else (s, s.reader_disagreement, difficult if s.reader_disagreement > 0 else nothing_known)
        for s in asked.cases
    )


def hybrid(asked: Asked) -> list[Scored]:
    """The case whose uncertainty times distance from all before it is most for each second, again and again.

    Under a budget only what still fits is looked at: the greedy way to fill a knapsack.
    """
    points, read = diversity.standardised(asked.cases, asked.read)
    unsure = np.array([_mean(s.entropy) for s in asked.cases])
    worth = unsure / unsure.max() if unsure.max() > 0 else np.ones(len(points))
    seconds = np.array(asked.seconds())
    apart = diversity.distances_to_nearest(points, read)
    widest = max(2.0 * float(np.linalg.norm(points, axis=1).max()), 1e-9)
    apart = np.minimum(apart / widest, 1.0) if len(read) else np.ones(len(points))
    left, taken, found = asked.budget_s, np.zeros(len(points), dtype=np.bool_), []
    for number in range(len(points)):
        open_ = ~taken if left is None else ~taken & (seconds <= left)
        if not open_.any():
            break
        gains = np.where(open_, worth * apart / seconds, -1.0)
        # One by one while it matters, then in the order of what is left: 20,000 cases would take 20,000 passes.
        chosen = [int(gains.argmax())] if number < diversity.CENTRES_MAX else _rest(gains, seconds, left)
        for at in chosen:
            found.append(_worth_it(asked, at, float(gains[at])))
            taken[at] = True
            left = None if left is None else left - float(seconds[at])
        if number >= diversity.CENTRES_MAX:
            break
        apart = np.minimum(apart, np.linalg.norm(points - points[chosen[0]], axis=1) / widest)
    return found


def _rest(gains: _Floats, seconds: _Floats, left: float | None) -> list[int]:
    """All that fits, by what it is worth."""
    found = []
    for at in np.argsort(-gains, kind="stable"):
        if gains[at] >= 0 and (left is None or seconds[at] <= left):
            found.append(int(at))
            left = None if left is None else left - float(seconds[at])
    return found


def _worth_it(asked: Asked, at: int, gain: float) -> Scored:
    summary = asked.cases[at]
    why = f"The model is unsure of {_unsure_of(asked, summary)} here, and the case is unlike those before it."
    return Scored(case=summary.case, score=gain, why=why)


def within_budget(asked: Asked, ordered: Sequence[Scored], budget_s: float) -> list[Scored]:
    """The cases that fit, in their order; one that is too long makes room for those after it."""
    seconds = dict(zip(_ids(asked), asked.seconds(), strict=True))
    left, batch = budget_s, []
    for scored in ordered:
        if seconds[scored.case] <= left:
            left -= seconds[scored.case]
            batch.append(scored)
    return batch


def _most(asked: Asked, measure: Measure, why: str) -> list[Scored]:
    """By the mean over structures, so that each counts the same; the sentence names the structure with most."""
    rows = []
    for summary in asked.cases:
        values = measure(summary)
        rows.append((summary, _mean(values), why.format(asked.title(_first_of(values)))))
    return _descending(rows)


def _unsure_of(asked: Asked, summary: CaseSummary) -> str:
    return asked.title(_first_of(summary.entropy))


def _first_of(values: Mapping[str, float]) -> str:
    return min(values, key=lambda name: (-values[name], name))


def _mean(values: Mapping[str, float]) -> float:
    return sum(values.values()) / len(values) if values else 0.0


def _descending(rows: Iterable[tuple[CaseSummary, float, str]]) -> list[Scored]:
    scored = [Scored(case=summary.case, score=score, why=why) for summary, score, why in rows]
    return sorted(scored, key=lambda one: (-one.score, one.case))


def _placed(rows: Iterable[tuple[CaseSummary, str]]) -> list[Scored]:
    """Scores for an order that has none of its own: 1 for the first, falling evenly."""
    every = list(rows)
    return [
        Scored(case=summary.case, score=1.0 - place / len(every), why=why) for place, (summary, why) in enumerate(every)
    ]


def _shuffled(asked: Asked, what: str) -> list[CaseSummary]:
    keyed = sorted(zip(asked.chance(what), _ids(asked), asked.cases, strict=True), key=lambda row: (-row[0], row[1]))
    return [summary for _, _, summary in keyed]


def _ids(asked: Asked) -> list[str]:
    return [summary.case for summary in asked.cases]


def _gumbel(asked: Asked, beta: float) -> list[float]:
    return [-math.log(-math.log(chance)) / beta for chance in asked.chance("noise")]


def _batch(asked: Asked) -> int:
    """How many cases are chosen together: as many as the budget is likely to pay for."""
    if asked.budget_s is None:
        return min(_BATCH, len(asked.cases))
    return max(1, min(len(asked.cases), int(asked.budget_s / median(asked.seconds()))))
