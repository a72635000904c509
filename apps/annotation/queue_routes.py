"""`/infer/queue`: who asks in, where his own inferences stand out."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from apps.annotation.dependencies import TheQueue, Worker

router = APIRouter()


@router.get("/infer/queue")
async def queue(caller: Worker, queue: TheQueue) -> dict[str, Any]:
    """The caller's own inferences, position 0 being worked on, 1 next; of all others only how many there are."""
    running, waiting = queue.counts
    return {
        "running": running,
        "waiting": waiting,
        "own": [asdict(place) for place in queue.places(caller.account.id)],
    }
