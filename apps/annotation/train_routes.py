"""`/train/`: start, watch and cancel the durable training job."""

from typing import Any

from fastapi import APIRouter

from apps.annotation import train
from apps.annotation.calling import calling
from apps.annotation.dependencies import Anyone, Engineer, Overread
from labeling_protocols.store import UnknownError

router = APIRouter()


@router.get("/train/")
def training_status(caller: Anyone, overread: Overread, check_if_running: bool = False) -> dict[str, Any]:
    """The newest training, or 404; `check_if_running` asks only for one that waits or runs."""
    task = train.newest_task(overread.jobs, running_only=check_if_running)
    if task is None:
        raise UnknownError("no training is running" if check_if_running else "nothing was trained yet")
    return task


@router.post("/train/")
def train_every_model(caller: Engineer, overread: Overread) -> dict[str, Any]:
    with calling(caller.account):
        started = {name: task({"model": name}, overread.reads) for name, task in overread.trainers().items()}
    return {name: {"result": task, "detail": None} for name, task in started.items()}


@router.post("/train/{model}")
def train_model(model: str, caller: Engineer, overread: Overread) -> dict[str, Any]:
    """Start the durable training job; parameters in the body are ignored, the plan comes from the data."""
    trainer = overread.trainers().get(model)
    if trainer is None:
        raise UnknownError("unknown model to train; /info/ names the trainers there are")
    with calling(caller.account):
        return trainer({"model": model}, overread.reads)


@router.delete("/train/")
def stop_training(caller: Engineer, overread: Overread) -> dict[str, Any] | None:
    """Cancel what waits or runs; the newest of it, or null."""
    return train.cancel_all(overread.jobs)
