"""Whether a label can be a read of a case: protocol, case and label in, nothing or a `LabelError` that says why out."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from labeling_protocols.geometry import Geometry
from labeling_protocols.label import Answer, Box, Label, LabelError, Point
from labeling_protocols.protocol import Protocol, Task
from labeling_protocols.protocol_parts import ChoiceQuestion, IntegerQuestion, Question, TextQuestion
from labeling_protocols.records import Case
from labeling_protocols.surfaces import region_of

FINDINGS_MAX = 1_000  # boxes, and points, of a label: more than anybody draws; 10,000 take gigabytes to be compared

_SHOWN = 8
_BEYOND_EDGE_VOXELS = 1.0  # a viewer may draw a box round the outermost voxels


def check_label(protocol: Protocol, case: Case, label: Label, voxels: Mapping[int, int]) -> None:
    """Raise `LabelError` with the first thing that is wrong; `voxels` counts the voxels of each value but 0."""
    problem = label_problem(protocol, case.geometry, label, voxels)
    if problem is not None:
        raise LabelError(f"{problem}. Nothing was saved.")


def label_problem(protocol: Protocol, geometry: Geometry, label: Label, voxels: Mapping[int, int]) -> str | None:
    """The first thing that is wrong with a label of an image on this grid, in words, or None."""
    return next(_problems(protocol, geometry, label, voxels), None)


def overlap_errors(protocol: Protocol, label: Label) -> list[str]:
    """The structures that share voxels and may not, in words; a label of one layer has none."""
    names = {value: name for name, value in protocol.values.items()}
    return [
        f"{names[a]} and {names[b]} share {count} voxels and the protocol does not let them overlap"
        for (a, b), count in sorted(_shared_voxels(label.layers_LZYX).items())
        if not protocol.may_overlap(names[a], names[b])
    ]


def _problems(protocol: Protocol, geometry: Geometry, label: Label, voxels: Mapping[int, int]) -> Iterator[str]:
    if difference := geometry.difference(label.geometry):
        yield f"the label does not lie on the image's grid: {difference}"
    yield from _voxel_problems(protocol, label, voxels)
    yield from _finding_problems(protocol, geometry, label)
    yield from _answer_problems(protocol, label.answers)
    if not (voxels or label.boxes or label.points or protocol.may_be_empty):
        yield _emptiness(protocol)


def _voxel_problems(protocol: Protocol, label: Label, voxels: Mapping[int, int]) -> Iterator[str]:
    if foreign := sorted(set(voxels) - set(protocol.values.values())):
        shown = ", ".join(str(value) for value in foreign[:_SHOWN])
        allowed = ", ".join(f"{value} {name}" for name, value in protocol.values.items())
        expected = f"expected 0, {allowed}" if allowed else "expected 0 only: nothing is outlined under this protocol"
        yield f"the label has values the protocol does not: {shown}; {expected}"
    yield from overlap_errors(protocol, label)


def _shared_voxels(layers_LZYX: NDArray[np.uint8]) -> dict[tuple[int, int], int]:
    """How many voxels each two values share, by (smaller, larger value)."""
    shared: dict[tuple[int, int], int] = {}
    for a_ZYX, b_ZYX in combinations(layers_LZYX, 2):
        regions = zip(region_of([a_ZYX]), region_of([b_ZYX]), strict=True)
        common = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in regions)
        a_cut_ZYX, b_cut_ZYX = a_ZYX[common], b_ZYX[common]
        both = (a_cut_ZYX != 0) & (b_cut_ZYX != 0)
        pairs = a_cut_ZYX[both].astype(np.uint16) << 8 | b_cut_ZYX[both]
        for pair, count in enumerate(np.bincount(pairs, minlength=1)):
            low, high = sorted(divmod(pair, 256))
            if count and low != high:
                shared[low, high] = shared.get((low, high), 0) + int(count)
    return shared


def _finding_problems(protocol: Protocol, geometry: Geometry, label: Label) -> Iterator[str]:
    tasks = {structure.name: structure.tasks for structure in protocol.structures}
    drawn: tuple[tuple[Task, Sequence[Box | Point]], ...] = ((Task.BOXES, label.boxes), (Task.POINTS, label.points))
    for task, findings in drawn:
        if len(findings) > FINDINGS_MAX:
            yield f"the label has {len(findings)} {task}; expected at most {FINDINGS_MAX}"
            continue
        asked = [name for name, of_structure in tasks.items() if task in of_structure]
        for number, finding in enumerate(findings, 1):
            what = f"{'box' if task is Task.BOXES else 'point'} {number} of {len(findings)}"
            if finding.structure not in asked:
                expected = " or ".join(asked) if asked else f"no {task} under this protocol"
                yield f"{what} names the structure {finding.structure!r:.50}; expected {expected}"
            elif problem := _place_problem(geometry, finding):
                yield f"{what} ({finding.structure}) {problem}"


def _place_problem(geometry: Geometry, finding: Box | Point) -> str | None:
    """What is wrong with where a box or point lies, in words."""
    centre_mm = finding.centre_mm_LPS if isinstance(finding, Box) else finding.position_mm_LPS
    size_mm = finding.size_mm_XYZ if isinstance(finding, Box) else (0.0, 0.0, 0.0)
    if not np.isfinite([*centre_mm, *size_mm]).all():
        return "has a coordinate that is no number"
    if isinstance(finding, Box) and min(size_mm) <= 0:
        return f"has a size of {_mm(size_mm)}; expected each side above 0"
    to_index = np.linalg.inv(geometry.affine_LPS())
    centre_XYZ = (to_index @ [*centre_mm, 1.0])[:3]
    half_XYZ = np.array(size_mm) / geometry.spacing_mm_XYZ / 2
    last_XYZ = np.array(geometry.shape_ZYX[::-1]) - 0.5
    if (centre_XYZ < -0.5).any() or (centre_XYZ > last_XYZ).any():
        return f"lies outside the image, at {_mm(centre_mm)} LPS"
    beyond = np.maximum(-0.5 - (centre_XYZ - half_XYZ), centre_XYZ + half_XYZ - last_XYZ).max()
    if beyond > _BEYOND_EDGE_VOXELS:
        return f"reaches {beyond:.1f} voxels beyond the image's edge"
    return None


def _mm(numbers: tuple[float, float, float]) -> str:
    return " × ".join(f"{number:.1f}" for number in numbers) + " mm"


def _answer_problems(protocol: Protocol, answers: Mapping[str, Answer]) -> Iterator[str]:
    questions = {question.name: question for question in protocol.questions}
    if foreign := sorted(set(answers) - set(questions)):
        expected = f"expected {', '.join(questions)}" if questions else "this protocol asks none"
        shown = ", ".join(f"{name!r:.50}" for name in foreign[:_SHOWN])
        yield f"answers to questions the protocol does not ask: {shown}; {expected}"
    for name, question in questions.items():
        if name not in answers:
            if question.required:
                yield f"the question {name!r} ({question.title}) is not answered and has to be"
        elif wanted := _expected_answer(question, answers[name]):
            yield f"the answer to {name!r} is {answers[name]!r:.50}; expected {wanted}"


def _expected_answer(question: Question, answer: Answer) -> str | None:
    """What the question expects, in words, or None where this answer is one."""
    if isinstance(question, ChoiceQuestion):
        return None if answer in question.options else f"one of {', '.join(question.options)}"
    if isinstance(question, IntegerQuestion):
        whole = isinstance(answer, int) and not isinstance(answer, bool) and question.min <= answer <= question.max
        return None if whole else f"a whole number from {question.min} to {question.max}"
    if isinstance(question, TextQuestion):
        brief = isinstance(answer, str) and len(answer) <= question.max_characters
        return None if brief else f"text of at most {question.max_characters} characters"
    return None if isinstance(answer, bool) else "true or false"


def _emptiness(protocol: Protocol) -> str:
    if all(structure.tasks == (Task.SEGMENTATION,) for structure in protocol.structures):
        return "the label is empty: no voxel belongs to any structure of the protocol"
    return "the label is empty: it has no voxel, box or point of any structure, and this protocol expects one"
