"""Training steps beside a plain MONAI loop of the same network and data, and metrics logged beside MLflow's way.

The peer is what MONAI's tutorials do: CacheDataset, DataLoader, dictionary transforms one case at a time, float32. It
gets every core for its network, and no loader processes: on few cores they make it slower.
"""

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from measuring import Row, compare
from monai.data import CacheDataset, DataLoader
from monai.losses import DiceCELoss
from monai.transforms import (
    Compose,
    Rand3DElasticd,
    RandAdjustContrastd,
    RandFlipd,
    RandGaussianNoised,
    RandScaleIntensityd,
    RandShiftIntensityd,
    RandSpatialCropd,
    SpatialPadd,
)

from labeling_protocols.geometry import Volume
from labeling_protocols.label import Label
from labeling_protocols.volumes import read_volume
from training.checkpoint import Epoch
from training.group import choose_device
from training.loop import TrainingCancelled, fit, native_precision
from training.plan import Plan, make_plan, take_fingerprint
from training.samples import phantom
from training.segmentation import SegmentationLearner
from training.tracking import open_client

CASES, ROUNDS, METRICS = 24, 5, 400
_VALUES = {"anterior": 1, "posterior": 2}


def training_rows(data: Path | None, cases: int = CASES, rounds: int = ROUNDS) -> list[Row]:
    """Patches a second on the CPU, seconds a step on a GPU where there is one, seconds a metric."""
    pairs = _cases(data, cases)
    images, labels = [image for image, _ in pairs], [label for _, label in pairs]
    rows = [_patches(images, labels, torch.device("cpu"), rounds)]
    if torch.cuda.is_available():
        rows.append(_step(images, labels, rounds))
    else:
        print("step gpu: this machine has no GPU that torch can use; the row is left out, and nothing was measured.")
    return [*rows, _metric()]


def _patches(images: Sequence[Volume], labels: Sequence[Volume], device: torch.device, rounds: int) -> Row:
    """Both in turn, an epoch each, so that a drifting machine meets both alike; the first of each is not counted."""
    plan = _plan(images, labels, device)
    ours, theirs = _our_epochs(plan, images, labels, device), _monai_epochs(plan, images, labels, device)
    next(ours), next(theirs)
    figures = [(next(ours), next(theirs)) for _ in range(rounds)]
    mine, peer = (statistics.median(column) for column in zip(*figures, strict=True))
    return Row(name="patches cpu", ours=mine, peer=peer, unit="patches/s", ratio=mine / peer, goal=1.5)


def _step(images: Sequence[Volume], labels: Sequence[Volume], rounds: int) -> Row:
    """Seconds a step of a batch on the GPU; how busy it is meanwhile is printed."""
    device = choose_device("cuda")
    plan = _plan(images, labels, device)
    ours, theirs = _our_epochs(plan, images, labels, device), _monai_epochs(plan, images, labels, device)
    next(ours), next(theirs)
    figures = [(plan.batch / next(ours), plan.batch / next(theirs)) for _ in range(rounds)]
    print(f"step gpu: {torch.cuda.get_device_name(device)}, {torch.cuda.utilization(device)} % busy at the end")
    mine, peer = (statistics.median(column) for column in zip(*figures, strict=True))
    return Row(name="step gpu", ours=mine, peer=peer, ratio=peer / mine, goal=3)


def _plan(images: Sequence[Volume], labels: Sequence[Volume], device: torch.device) -> Plan:
    fingerprint = take_fingerprint(zip(images, labels, strict=True), _VALUES)
    precision = native_precision(device)
    return make_plan(fingerprint, values=_VALUES, modality="MR", precision=precision, mirror_axes=(0,))


def _our_epochs(
    plan: Plan, images: Sequence[Volume], labels: Sequence[Volume], device: torch.device
) -> Iterator[float]:
    """Patches a second of one epoch after the other, as the loop itself tells them."""
    learner = SegmentationLearner(plan)
    pairs = enumerate(zip(images, labels, strict=True))
    examples = [learner.prepare(str(number), image, Label.of(label)) for number, (image, label) in pairs]
    with tempfile.TemporaryDirectory() as folder:
        for wanted in range(1, plan.epochs):  # the loop goes on from its checkpoint, an epoch further each time
            told: list[Epoch] = []
            with contextlib.suppress(TrainingCancelled):
                fit(
                    plan,
                    learner,
                    examples,
                    [],
                    folder=Path(folder),
                    device=device,
                    tell=told.append,
                    cancelled=_all(told, wanted),
                )
            yield told[-1].patches_per_s


def _all(told: list[Epoch], wanted: int) -> Callable[[], bool]:
    return lambda: len(told) >= wanted


def _monai_epochs(
    plan: Plan, images: Sequence[Volume], labels: Sequence[Volume], device: torch.device
) -> Iterator[float]:
    learner = SegmentationLearner(plan)
    pairs = zip(images, labels, strict=True)
    prepared = [learner.prepare("", image, Label.of(label)) for image, label in pairs]
    data = [{"image": one.image, "label": one.label[None].float()} for one in prepared]
    loader = DataLoader(CacheDataset(data, _augmentations(plan), progress=False), batch_size=plan.batch, shuffle=True)
    network = learner.network().to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    criterion = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
    cores = len(os.sched_getaffinity(0))
    while True:
        threads = torch.get_num_threads()
        torch.set_num_threads(cores)
        begun, shown = time.perf_counter(), 0
        for batch in loader:
            optimizer.zero_grad()
            loss = criterion(network(batch["image"].to(device)), batch["label"].to(device))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 12.0)
            optimizer.step()
            shown += len(batch["image"])
            loss.item()
        torch.set_num_threads(threads)
        yield shown / (time.perf_counter() - begun)


def _augmentations(plan: Plan) -> Compose:
    """MONAI's transforms that do to a case what `training/augmentation.py` does to a batch."""
    both, turn = ["image", "label"], np.deg2rad(20)
    return Compose(
        [
            SpatialPadd(both, plan.patch_RAS),
            RandSpatialCropd(both, plan.patch_RAS, random_size=False),
            RandFlipd(both, prob=0.5, spatial_axis=0),
            Rand3DElasticd(
                both,
                sigma_range=(5, 8),
                magnitude_range=(50, 150),
                prob=1.0,
                rotate_range=[turn] * 3,
                scale_range=[0.15] * 3,
                translate_range=[round(0.05 * edge) for edge in plan.patch_RAS],
                mode=("bilinear", "nearest"),
                padding_mode=("border", "zeros"),
            ),
            RandAdjustContrastd("image", prob=1.0, gamma=(0.75, 1.35)),
            RandScaleIntensityd("image", factors=0.3, prob=1.0),
            RandShiftIntensityd("image", offsets=0.2, prob=1.0),
            RandGaussianNoised("image", prob=1.0, std=0.15),
        ]
    )


def _metric() -> Row:
    """Seconds a metric: through a run of ours, written when its buffer is full and at the end, and one by one."""
    from training.run_log import RunLog

    with tempfile.TemporaryDirectory() as folder:
        client = open_client(f"sqlite:///{folder}/mlflow.db")
        experiment = client.create_experiment("bench", artifact_location=Path(folder).as_uri())

        def logged() -> None:
            run = RunLog(client=client, id=client.create_run(experiment).info.run_id)
            for step in range(METRICS):
                run.metrics({"loss": 1.0 / (step + 1)}, step, 1_700_000_000_000 + step)
            run.flush()

        def one_by_one() -> None:
            run = client.create_run(experiment).info.run_id
            for step in range(METRICS):
                client.log_metric(run, "loss", 1.0 / (step + 1), step=step)

        row = compare("mlflow metric", logged, one_by_one, repeats=3)
    assert row.peer is not None
    return Row(name=row.name, ours=row.ours / METRICS, peer=row.peer / METRICS, ratio=row.ratio, goal=None)


def _cases(data: Path | None, count: int) -> list[tuple[Volume, Volume]]:
    """Images with their labels from a folder, or drawn."""
    if data is None:
        return [phantom(np.random.default_rng(number)) for number in range(count)]
    names = sorted(path.name for path in (data / "images").iterdir())[:count]
    return [(read_volume(data / "images" / name), read_volume(data / "labels" / name)) for name in names]
