"""A job's snapshot in, the plan of its training out: the fingerprint, the rules, what the task adds, and overrides."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch

from labeling_protocols.channels import Images
from labeling_protocols.geometry import Volume
from labeling_protocols.protocol import Protocol, Structure, Task
from labeling_protocols.protocol_parts import BooleanQuestion, ChoiceQuestion, IntegerQuestion
from training.classification_plan import coarse_fingerprint, plan_classification
from training.detection_boxes import sizes_mm_RAS, true_boxes
from training.detection_plan import plan_detection
from training.plan import (
    CPU_BUDGET,
    GPU_BUDGET,
    Budget,
    ModelTask,
    Plan,
    PlanError,
    Precision,
    make_plan,
    override,
    take_fingerprint,
)
from training.workplace import TrainingJob

_GPU_BYTES = 12 * 2**30  # that the largest patch asks for
_LATERAL = ("7771000", "24028007")  # SNOMED CT: left, right
_RIGHT_AXIS = 0


def plan_for(work: TrainingJob, precision: Precision, device: torch.device) -> Plan:
    """The plan for this job's training cases on this device; raises `PlanError` where the task has nothing to learn."""
    values = targets(work.protocol, work.request.task, work.request.question)
    inputs = _inputs(work.protocol, work.request.task)
    budget = _budget(device)
    boxes_mm: list[tuple[float, float, float]] = []

    def cases() -> Iterator[tuple[Images, Volume]]:
        for case in work.snapshot.training:
            images, label = work.images(case), work.label(case)
            if work.request.task is ModelTask.DETECTION:
                boxes_mm.extend(sizes_mm_RAS(true_boxes(label, values), label.geometry))
            yield images, label.volume()

    fingerprint = take_fingerprint(cases(), work.protocol.values)
    if work.request.task is ModelTask.CLASSIFICATION:
        fingerprint = coarse_fingerprint(fingerprint, budget.patch_voxels)
    plan = make_plan(
        fingerprint,
        values=values,
        modality=work.protocol.modality[0],
        precision=precision,
        task=work.request.task,
        question=work.request.question,
        mirror_axes=_mirrored(work.protocol),
        budget=budget,
        inputs=inputs,
    )
    if plan.task is ModelTask.CLASSIFICATION:
        plan = plan_classification(plan)
    if plan.task is ModelTask.DETECTION:
        plan = plan_detection(plan, boxes_mm)
    plan = override(plan, {**work.place.overrides, **work.request.overrides})
    if plan.inputs != inputs:
        raise PlanError("inputs are the channels of the protocol, and not the plan's to change. Nothing was trained.")
    return plan


def targets(protocol: Protocol, task: ModelTask, question: str) -> Mapping[str, int]:
    """What a task learns of a protocol, by name, with voxel values; a question's options count from 1 instead."""
    if task is ModelTask.CLASSIFICATION:
        return {option: number for number, option in enumerate(_options(protocol, question), start=1)}
    boxed = [structure for structure in protocol.structures if Task.BOXES in structure.tasks]
    structures = (boxed or protocol.outlined) if task is ModelTask.DETECTION else protocol.outlined
    if not structures:
        raise PlanError(f"protocol {protocol.name} has no structure for a {task} to learn. Nothing was trained.")
    return {structure.name: structure.value for structure in structures}


def _inputs(protocol: Protocol, task: ModelTask) -> tuple[str, ...]:
    """The channels a network is shown, where the protocol has several; only a segmentation is trained with these."""
    if len(protocol.channels) < 2:
        return ()
    if task is not ModelTask.SEGMENTATION:
        raise PlanError(
            f"protocol {protocol.name} has the channels {', '.join(protocol.channels)}, and the task {task} learns from"
            " one image; train a segmentation, or make a protocol of one channel. Nothing was trained."
        )
    return protocol.channels


def _options(protocol: Protocol, name: str) -> tuple[str, ...]:
    for question in protocol.questions:
        if question.name == name:
            if isinstance(question, ChoiceQuestion):
                return question.options
            if isinstance(question, BooleanQuestion):
                return ("no", "yes")
            if isinstance(question, IntegerQuestion):
                return tuple(str(number) for number in range(question.min, question.max + 1))
    asked = ", ".join(question.name for question in protocol.questions) or "none"
    raise PlanError(
        f"protocol {protocol.name} has no question {name!r} with answers to choose from; it asks {asked}."
        " Nothing was trained."
    )


def _mirrored(protocol: Protocol) -> tuple[int, ...]:
    """Left and right, where no structure is one or the other."""
    return () if any(_is_lateral(structure) for structure in protocol.structures) else (_RIGHT_AXIS,)


def _is_lateral(structure: Structure) -> bool:
    return structure.modifier is not None and structure.modifier.value in _LATERAL


def _budget(device: torch.device) -> Budget:
    """What the device's memory bears."""
    if device.type != "cuda":
        return CPU_BUDGET
    share = torch.cuda.get_device_properties(device).total_memory / _GPU_BYTES
    return replace(GPU_BUDGET, patch_voxels=int(GPU_BUDGET.patch_voxels * min(1.0, share)))
