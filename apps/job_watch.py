"""What a step of a long job says and asks while it works: progress out, whether somebody cancelled it in."""

import time
from collections.abc import Callable
from typing import Any

from dbos import error

from apps.jobs import cancelled, report_progress
from training.loop import TrainingCancelled

_CANCEL_POLL_S = 1.0


def tell(progress: dict[str, Any]) -> None:
    """Report progress; DBOS refuses it from a job that was cancelled, or given to another worker."""
    try:
        report_progress(progress)
    except (error.DBOSWorkflowCancelledError, error.DBOSWorkflowConflictIDError) as refusal:
        if cancelled():
            raise TrainingCancelled("cancelled; nothing was released") from refusal
        raise


def watch() -> Callable[[], bool]:
    """Whether somebody cancelled this job, asked of the job database once in `_CANCEL_POLL_S` at most."""
    asked, answer = -_CANCEL_POLL_S, False

    def poll() -> bool:
        nonlocal asked, answer
        if not answer and time.monotonic() - asked > _CANCEL_POLL_S:
            asked, answer = time.monotonic(), cancelled()
        return answer

    return poll
