"""Annotation simulated: labelled cases and a strategy in; what a network has learned after each round out.

A small network starts on a few cases drawn at random. In each round the strategy orders the cases that are left, a
simulated reader takes them in that order while the round's seconds last, and the network is trained on: from its
weights of before, as a champion's successor is with `warm_start`, on all cases read so far. The seconds, the start, the
number of steps, the luck in training and the test set are the same for every strategy. Networks, training, evidence and
orders are those of the server; only the reader is played, by the cases' labels.
"""

import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from labeling_protocols.geometry import Volume
from labeling_protocols.label import Label
from training.acquisition import STRATEGIES, CaseSummary, rank
from training.acquisition_evidence import VIEWS, summary_of
from training.acquisition_likeness import expected_seconds
from training.annotation_cost import reading_seconds
from training.annotation_sets import AnnotationSet, LabelledCase
from training.data import Example
from training.learning_curves import Run, Standing
from training.loop import fit, native_precision
from training.plan import Normalisation, Plan
from training.prepared_images import PreparedImages
from training.segmentation import SegmentationLearner
from training.segmentation_inference import Segmenter, segmentation_config

# Strategies that need what a simulated reader cannot give: he draws what the label says, so that none disagree.
NOT_SIMULATED = frozenset({"reader_disagreement"})
_CPU = torch.device("cpu")
_CHANNELS = (16, 32, 64)
_STRIDES = ((1, 1, 1), (2, 2, 2), (2, 2, 2))
_EPOCHS = 2  # each ends in a checkpoint, which a training of seconds needs no more of

Weights = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`start_cases` and `round_cases` say how many seconds there are: as many times those of the pool's mean case."""

    rounds: int = 4
    start_cases: int = 4
    round_cases: int = 4
    start_steps: int = 800
    round_steps: int = 250
    views: int = VIEWS
    learning_rate: float = 5e-3
    batch: int = 2


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where all strategies of a seed begin."""

    seed: int
    standing: Standing
    weights: Weights


class Simulation:
    """One set of cases, prepared for its network."""

    def __init__(self, archive: AnnotationSet, settings: Settings) -> None:
        self._archive = archive
        self._settings = settings
        self._plan = _plan(archive, settings)
        self._cases = {one.case: one for one in archive.pool}
        self._examples: dict[str, Example] = {}
        self._images = PreparedImages()  # every round's network looks at the same ones
        self._opening: tuple[int, list[CaseSummary]] | None = None
        self.seconds = {one.case: reading_seconds(one.label, archive.values, archive.counted) for one in archive.pool}
        self._mean_s = fmean(self.seconds.values())

    def start(self, seed: int) -> Start:
        """A few cases at random, and what the network learns from them."""
        purse_s = self._settings.start_cases * self._mean_s
        order = np.random.default_rng((seed, 1)).permutation(sorted(self._cases)).tolist()
        cases = affordable(order, self.seconds, purse_s)
        weights = self._trained(seed, 0, cases, self._settings.start_steps, None)
        return Start(seed=seed, standing=self._standing(purse_s, cases, weights), weights=weights)

    def run(self, strategy: str, start: Start) -> Run:
        """All rounds of one strategy."""
        standings, weights = [start.standing], start.weights
        round_s = self._settings.round_cases * self._mean_s
        for number in range(1, self._settings.rounds + 1):
            before = standings[-1]
            purse_s = before.seconds + round_s - before.spent_s
            order = self._order(strategy, start.seed, number, before.cases, weights, purse_s)
            cases = (*before.cases, *affordable(order, self.seconds, purse_s))
            weights = self._trained(start.seed, number, cases, self._settings.round_steps, weights)
            standings.append(self._standing(before.seconds + round_s, cases, weights))
        return Run(archive=self._archive.name, strategy=strategy, seed=start.seed, standings=tuple(standings))

    def _order(
        self, strategy: str, seed: int, number: int, read: Sequence[str], weights: Weights, purse_s: float
    ) -> list[str]:
        """The strategy's batch for these seconds, and after it, in case that took less than expected, its next ones."""
        summaries = self._summaries(strategy, seed, number, weights)
        measured_s = {case: self.seconds[case] for case in read}
        were_read = [one for one in summaries if one.case in measured_s]
        waiting = [one for one in summaries if one.case not in measured_s]
        expected_s = expected_seconds(
            waiting, were_read, measured_s
        )  # nobody knows what a case takes before it is read
        waiting = [replace(one, seconds=expected_s[one.case]) for one in waiting]

        def ordered(budget_s: float | None) -> list[str]:
            found = rank(
                strategy,
                waiting,
                seed=_number(seed, "order"),
                budget_s=budget_s,
                read=were_read,
                progress=len(read) / len(summaries),
            )
            return [scored.case for scored in found]

        return list(dict.fromkeys([*ordered(purse_s), *ordered(None)]))

    def _summaries(self, strategy: str, seed: int, number: int, weights: Weights) -> list[CaseSummary]:
        """What the network says of every case of the pool; of the start's network it is found out once a seed."""
        needs = STRATEGIES[strategy]
        if not (needs.needs_samples or needs.needs_features):
            return [CaseSummary(case=case) for case in self._cases]
        if number == 1 and self._opening is not None and self._opening[0] == seed:
            return self._opening[1]
        segmenter = self._segmenter(weights)
        found = [
            summary_of(
                segmenter,
                one.image,
                list(self._archive.values),
                case=one.case,
                views=self._settings.views,
                seed=_number(seed, number, "views"),
                mirror_axes=self._plan.mirror_axes,
            )
            for one in self._archive.pool
        ]
        if number == 1:
            self._opening = (seed, found)
        return found

    def _trained(self, seed: int, number: int, cases: Sequence[str], steps: int, start: Weights | None) -> Weights:
        """So many steps whatever the number of cases, each of which is shown as often as the others."""
        shown = steps * self._settings.batch // _EPOCHS
        examples = [self._example(cases[place % len(cases)]) for place in range(shown)]
        plan = replace(self._plan, seed=_number(seed, number, "training"))
        with tempfile.TemporaryDirectory() as folder:
            return fit(
                plan,
                SegmentationLearner(plan),
                examples,
                [],
                folder=Path(folder),
                device=_CPU,
                tell=lambda epoch: None,
                start=start,
            )

    def _example(self, case: str) -> Example:
        if case not in self._examples:
            one = self._cases[case]
            self._examples[case] = SegmentationLearner(self._plan).prepare(case, one.image, Label.of(one.label))
        return self._examples[case]

    def _standing(self, seconds: float, cases: Sequence[str], weights: Weights) -> Standing:
        return Standing(
            seconds=seconds,
            spent_s=sum(self.seconds[case] for case in cases),
            cases=tuple(cases),
            dice=dice_by_structure(self._segmenter(weights).predict, self._archive.test, self._archive.values),
        )

    def _segmenter(self, weights: Weights) -> Segmenter:
        return Segmenter(segmentation_config(self._plan), weights, _CPU, images=self._images)


def affordable(order: Sequence[str], seconds: Mapping[str, float], purse_s: float) -> tuple[str, ...]:
    """The first cases of an order, up to the first that the purse does not pay for: nobody begins on it, and what is
    left stays for the next round. Cheaper cases further down are no substitute: the order would not be the strategy's.
    """
    taken: list[str] = []
    for case in order:
        purse_s -= seconds[case]
        if purse_s < 0:
            break
        taken.append(case)
    return tuple(taken)


def dice_by_structure(
    predict: Callable[[Volume], Volume], cases: Sequence[LabelledCase], values: Mapping[str, int]
) -> dict[str, float]:
    """Mean Dice over the cases in which a structure was drawn or predicted, by structure: 0 where only one side has it.

    Where neither has it there is nothing to score, and no 1 either, which would reward seeing nothing rare anywhere.
    """
    found: dict[str, list[float]] = {name: [] for name in values}
    for one in cases:
        predicted_ZYX, truth_ZYX = predict(one.image).array_ZYX, one.label.array_ZYX
        for name, value in values.items():
            ours, theirs = predicted_ZYX == value, truth_ZYX == value
            if total := int(ours.sum() + theirs.sum()):
                found[name].append(2 * int((ours & theirs).sum()) / total)
    return {name: fmean(values) for name, values in found.items() if values}


def _plan(archive: AnnotationSet, settings: Settings) -> Plan:
    """A network that a core trains in seconds; z-scores need no intensities of the training cases."""
    return Plan(
        targets=tuple(archive.values),
        values=(0, *archive.values.values()),
        spacing_mm_RAS=archive.spacing_mm_RAS,
        patch_RAS=archive.patch_RAS,
        normalisation=Normalisation.ZSCORE,
        intensity_mean=0.0,
        intensity_std=1.0,
        intensity_low=0.0,
        intensity_high=1.0,
        network="UNet",
        channels=_CHANNELS,
        strides=_STRIDES,
        batch=settings.batch,
        epochs=_EPOCHS,
        learning_rate=settings.learning_rate,
        weight_decay=1e-2,
        validate_every=_EPOCHS,
        average=0.95,
        precision=native_precision(_CPU),
        window_overlap=0.25,
        seed=0,
    )


def _number(*place: object) -> int:
    """A seed for this place in the simulation, whatever the strategy."""
    return int.from_bytes(hashlib.sha256(repr(place).encode()).digest()[:4], "big")
