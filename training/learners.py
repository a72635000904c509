"""A plan in, the learner of its task out."""

from training.learner import Learner
from training.plan import ModelTask, Plan


def learner_of(plan: Plan) -> Learner:
    """What the loop trains for this plan; each task's libraries are loaded when it is asked for."""
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
