"""What one label holds of what its protocol asks, in; rows of a study's tables out."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from apps.study_files import Cell, Row
from labeling_protocols.label import Answer, Box, Label, Point
from labeling_protocols.protocol import Protocol, Task
from labeling_protocols.records import Read
from labeling_protocols.store import Store

Finding = TypeVar("Finding", Box, Point)


@dataclass(frozen=True, kw_only=True)
class Marks:
    """What a label holds beside voxels."""

    boxes: tuple[Box, ...]
    points: tuple[Point, ...]
    answers: Mapping[str, Answer]

    @classmethod
    def of(cls, label: Label) -> "Marks":
        return cls(boxes=label.boxes, points=label.points, answers=dict(label.answers))


NO_MARKS = Marks(boxes=(), points=(), answers={})


def marks_of(store: Store, versions: Mapping[int, Protocol], reads: Iterable[Read]) -> dict[str, Marks]:
    """By label; one is opened only where the read's version of the protocol asks for more than voxels."""
    more = {number for number, protocol in versions.items() if _asks_more_than_voxels(protocol)}
    found = {read.label: read.protocol_version in more for read in reads}
    return {digest: Marks.of(store.label(digest)) if opened else NO_MARKS for digest, opened in found.items()}


def structure_rows(
    protocol: Protocol, voxels: Mapping[str, int], volumes_ml: Mapping[str, float], marks: Marks
) -> Iterator[Row]:
    """One row a structure of the protocol; what it is not asked for stays empty."""
    for structure in protocol.structures:
        boxes = sum(box.structure == structure.name for box in marks.boxes)
        points = sum(point.structure == structure.name for point in marks.points)
        yield {
            "structure": structure.name,
            "voxels": voxels.get(structure.name),
            "volume_ml": volumes_ml.get(structure.name),
            "boxes": boxes if Task.BOXES in structure.tasks else None,
            "points": points if Task.POINTS in structure.tasks else None,
        }


def answer_rows(marks: Marks) -> Iterator[Row]:
    """One row an answer, by the question's name."""
    for name, answer in sorted(marks.answers.items()):
        yield {"question": name, "answer": str(answer).lower() if isinstance(answer, bool) else str(answer)}


def finding_rows(marks: Marks) -> Iterator[Row]:
    """One row a box or point, numbered within its structure and kind."""
    for box, number in _numbered(marks.boxes):
        place = {**xyz("{}_mm", box.centre_mm_LPS), **xyz("size_{}_mm", box.size_mm_XYZ)}
        yield {"structure": box.structure, "kind": "box", "number": number, **place}
    for point, number in _numbered(marks.points):
        place = {**xyz("{}_mm", point.position_mm_LPS), **xyz("size_{}_mm", (None, None, None))}
        yield {"structure": point.structure, "kind": "point", "number": number, **place}


def xyz(pattern: str, numbers: tuple[float | None, ...]) -> dict[str, Cell]:
    """Three numbers as three columns."""
    return {pattern.format(axis): number for axis, number in zip("xyz", numbers, strict=True)}


def _asks_more_than_voxels(protocol: Protocol) -> bool:
    return bool(protocol.questions) or any(structure.tasks != (Task.SEGMENTATION,) for structure in protocol.structures)


def _numbered(findings: Iterable[Finding]) -> Iterator[tuple[Finding, int]]:
    seen: dict[str, int] = {}
    for finding in findings:
        seen[finding.structure] = seen.get(finding.structure, 0) + 1
        yield finding, seen[finding.structure]
