"""An adjudicator's parts, checked against the case: parts in, the label each is taken from or an error in words out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from labeling_protocols.answers import common_answers
from labeling_protocols.consensus import form_consensus
from labeling_protocols.geometry import Geometry
from labeling_protocols.label import Answer, Label
from labeling_protocols.lesions import Lesion, lesions_of
from labeling_protocols.protocol import Protocol
from labeling_protocols.protocol_parts import ConsensusRule
from labeling_protocols.records import Part

NONE = "none"
READER, CONSENSUS, EDIT = "reader", "consensus", "edit"


class CompositionError(ValueError):
    """Parts that come to no label: what was found, what was expected; nothing was decided."""


class Sources:
    """The parts by what they are for (structure, lesion), and the labels and lesions they speak of."""

    def __init__(
        self, protocol: Protocol, labels: Mapping[str, Label], parts: Sequence[Part], edits: Mapping[str, Label]
    ) -> None:
        if not labels:
            raise CompositionError("expected at least one read to decide on, found none. Nothing was decided.")
        self.geometry: Geometry = next(iter(labels.values())).geometry
        self.of = {(part.structure, part.lesion): part.source for part in parts}
        self.protocol, self._labels, self._parts, self._edits = protocol, labels, parts, edits
        self._formed: dict[str, Label] = {}

    @cached_property
    def lesions(self) -> Mapping[str, tuple[Lesion, ...]]:
        """By structure, in the order of their numbers."""
        found = lesions_of(self.protocol, self._labels)
        return {
            structure.name: tuple(lesion for lesion in found if lesion.structure == structure.name)
            for structure in self.protocol.structures
        }

    def check(self) -> None:
        """Raise `CompositionError` with the first thing that is wrong with the parts."""
        for part in self._parts:
            self._check_part(part)
        twice = [
            what for what, count in Counter((part.structure, part.lesion) for part in self._parts).items() if count > 1
        ]
        if twice:
            raise CompositionError(f"found two parts for {_called(*twice[0])}; expected one. Nothing was decided.")
        for structure in self.protocol.structures:
            if (None, None) not in self.of and (structure.name, None) not in self.of:
                self._check_lesions_cover(structure.name)

    def label(self, source: str) -> Label:
        """What a source holds; raises `CompositionError` where there is no such source."""
        kind, _, name = source.partition(":")
        if source == NONE:
            layers_LZYX = np.zeros((0, *self.geometry.shape_ZYX), np.uint8)
            return Label(geometry=self.geometry, layers_LZYX=layers_LZYX)
        if kind == READER and name in self._labels:
            return self._labels[name]
        if kind == EDIT and source in self._edits:
            if difference := self.geometry.difference(self._edits[source].geometry):
                raise CompositionError(f"the edit does not lie on the image's grid: {difference}. Nothing was decided.")
            return self._edits[source]
        if kind == CONSENSUS and name in {rule.value for rule in ConsensusRule}:
            if name not in self._formed:
                self._formed[name] = form_consensus(self.protocol, self._labels, ConsensusRule(name)).label
            return self._formed[name]
        raise CompositionError(f"{_unknown(kind, name)}. Nothing was decided.")

    def used(self) -> list[Label]:
        return [self.label(source) for source in dict.fromkeys(self.of.values())]

    def answers(self) -> Mapping[str, Answer]:
        whole = self.of.get((None, None), NONE)
        own = self.label(whole).answers
        if own or whole.partition(":")[0] == READER:  # a reader who left the questions open is taken at his word
            return own
        return common_answers(self.protocol, [label.answers for label in self._labels.values()])

    def lesion_parts(self, structure: str) -> list[tuple[int, str]]:
        """The number of each lesion of the structure that has a part, and its source, by number."""
        return sorted((number, source) for (name, number), source in self.of.items() if name == structure and number)

    def lesions_in_parts(self, structure: str) -> tuple[Lesion, ...]:
        """All lesions of a structure of which any has a part; finding them takes time, so none otherwise."""
        return self.lesions[structure] if self.lesion_parts(structure) else ()

    def _check_part(self, part: Part) -> None:
        self.label(part.source)
        names = [structure.name for structure in self.protocol.structures]
        if part.structure is None and part.lesion is not None:
            raise CompositionError(
                f"a part names lesion {part.lesion} and no structure; expected both. Nothing was decided."
            )
        if part.structure is not None and part.structure not in names:
            raise CompositionError(
                f"a part names the structure {part.structure!r:.50}; expected {' or '.join(names)}. "
                "Nothing was decided."
            )
        if part.structure is not None and part.lesion is not None:
            count = len(self.lesions[part.structure])
            if not 1 <= part.lesion <= count:
                known = f"it has {count}, counted from 1" if count else "it has none"
                raise CompositionError(
                    f"a part names lesion {part.lesion} of {part.structure}; {known}. Nothing was decided."
                )

    def _check_lesions_cover(self, structure: str) -> None:
        """Raise where a structure with no other part has a lesion without one, or no lesion at all."""
        parts = {lesion for name, lesion in self.of if name == structure}
        if not parts:
            raise CompositionError(
                f"no part says what becomes of {structure}; expected one for it or for the whole case. "
                "Nothing was decided."
            )
        if left := [lesion.number for lesion in self.lesions[structure] if lesion.number not in parts]:
            raise CompositionError(
                f"no part says what becomes of lesion {', '.join(map(str, left))} of {structure}; expected "
                "one for each, for the structure, or for the whole case. Nothing was decided."
            )


def _unknown(kind: str, name: str) -> str:
    """Why there is no such source; readers' ids are not repeated, as adjudicators do not know them."""
    if kind == READER:
        return "a part takes the label of a reader who has not read this case"
    if kind == EDIT:
        return f"a part takes edit {name!r:.20}, and there is no such edit of this case"
    if kind == CONSENSUS:
        return f"a part takes the consensus {name!r:.50}; expected {', '.join(rule.value for rule in ConsensusRule)}"
    return f"a part takes {kind!r:.50}; expected a reader, a consensus, an edit or none"


def _called(structure: str | None, lesion: int | None) -> str:
    if structure is None:
        return "the whole case"
    return structure if lesion is None else f"lesion {lesion} of {structure}"
