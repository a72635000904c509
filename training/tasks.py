"""A task in, its side of the loop and of the pipeline out; each task's libraries are loaded when it is asked for."""

from training.learner import Learner
from training.plan import ModelTask, Plan
from training.task_kit import TaskKit


def learner_of(plan: Plan) -> Learner:
    """What the loop trains for this plan."""
    if plan.task is ModelTask.INTERACTIVE:
        from training.interactive import InteractiveLearner

        return InteractiveLearner(plan)
    if plan.task is ModelTask.DETECTION:
        from training.detection import DetectionLearner

        return DetectionLearner(plan)
    if plan.task is ModelTask.CLASSIFICATION:
        from training.classification import ClassificationLearner

        return ClassificationLearner(plan)
    from training.segmentation import SegmentationLearner

    return SegmentationLearner(plan)


def kit_of(task: ModelTask) -> TaskKit:
    """What the pipeline does for this task."""
    if task is ModelTask.DETECTION:
        from training.detection_kit import DetectionKit

        return DetectionKit()
    if task is ModelTask.CLASSIFICATION:
        from training.classification_kit import ClassificationKit

        return ClassificationKit()
    from training.outline_kit import OutlineKit

    return OutlineKit(task=task)
