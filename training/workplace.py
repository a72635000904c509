"""What a training needs of its site, and what one job keeps in its folder for the step that comes after."""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from torch import Tensor

from labeling_protocols.blobs import write_durably
from labeling_protocols.channels import Images, channels_of
from labeling_protocols.geometry import Volume
from labeling_protocols.label import Label
from labeling_protocols.protocol import Protocol
from labeling_protocols.store import Store
from labeling_protocols.volumes import read_volume_bytes
from training.bundle import Bundle
from training.cutting import Shelf
from training.group import choose_device
from training.learner import Learner, NothingToLearnError
from training.loop import TrainingCancelled
from training.plan import Plan
from training.registry import Registry
from training.request import TrainingRequest
from training.snapshot import HELD_OUT_SHARE, Snapshot, SnapshotCase, folds, open_snapshot
from training.task_kit import TestCase
from training.tracking import RunLog, Tracking

Tell = Callable[[dict[str, Any]], None]
Cancelled = Callable[[], bool]

_JOB = re.compile(r"^[a-z][a-z0-9_-]{0,99}$")


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """What a training needs of its site.

    `folder` holds a folder a job, `artifacts` is MLflow's, `change_plans` holds change control plans, `overrides`
    replace values of every plan. `held_out_share` of the patients are kept apart from training, to judge models on.
    """

    store: Store
    tracking_uri: str
    artifacts: Path
    folder: Path
    bundles: Path
    change_plans: Path
    secret: bytes
    signing_key: Ed25519PrivateKey
    device: str = "auto"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    held_out_share: float = HELD_OUT_SHARE

    def job_folder(self, job: str) -> Path:
        if not _JOB.match(job):
            raise ValueError("a training job's id is made of lower-case letters, digits, '-' and '_'")
        folder = self.folder / job
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def registry(self) -> Registry:
        return Registry(self.tracking_uri, self.bundles, self.signing_key.public_key())

    @property
    def tracking(self) -> Tracking:
        return Tracking(self.tracking_uri, self.artifacts)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One network of a job: the training cases it learns from, those it is looked at on, and where it is kept.

    `fold` is empty where the job trains one network only; then the validation cases draw its curve and decide nothing.
    """

    fold: str
    training: tuple[SnapshotCase, ...]
    validation: tuple[SnapshotCase, ...]
    folder: Path

    @property
    def weights_file(self) -> Path:
        return self.folder / "weights.safetensors"

    def weights(self) -> dict[str, Tensor]:
        return safetensors.torch.load(self.weights_file.read_bytes())


class TrainingJob:
    """One job's folder and what the steps read from it and from the store."""

    def __init__(self, place: Workplace, job: str) -> None:
        self.place = place
        self.id = job
        self.folder = place.job_folder(job)
        self.device = choose_device(place.device)
        self.request = TrainingRequest.from_json((self.folder / "request.json").read_text())
        self.snapshot: Snapshot = open_snapshot((self.folder / "snapshot").read_text(), place.store.blobs)
        self.protocol: Protocol = place.store.protocol(self.snapshot.protocol, self.snapshot.protocol_version)

    def running(self) -> AbstractContextManager[RunLog]:
        """The job's MLflow run."""
        return _ended_in_words(self.place.tracking.run(self.id, self.protocol.name))

    def running_part(self, run: RunLog, part: Part) -> AbstractContextManager[RunLog]:
        """The run of one network: nested in the job's where it is one of several, otherwise the job's own."""
        return _ended_in_words(self.place.tracking.part(run, part.fold)) if part.fold else nullcontext(run)

    @property
    def plan_file(self) -> Path:
        return self.folder / "plan.json"

    def keep_plan(self, plan: Plan) -> None:
        write_durably(self.plan_file, plan.as_json().encode())

    def plan(self) -> Plan:
        return Plan.from_json(self.plan_file.read_text())

    def parts(self, plan: Plan) -> list[Part]:
        """The networks to train: one, or one a fold. Where a plan's patience chooses the weights of a single network,
        a tenth of its training patients is looked at for that, and the held-out cases stay unseen."""
        if self.request.folds > 1:
            return [
                Part(
                    fold=f"fold-{fold.number}",
                    training=fold.training,
                    validation=fold.validation,
                    folder=self.folder / f"fold-{fold.number}",
                )
                for fold in folds(self.snapshot, self.request.folds)
            ]
        training, validation = self.snapshot.training, self.snapshot.held_out
        if plan.patience is not None:
            first = folds(self.snapshot, min(10, len({case.patient for case in training})))[0]
            training, validation = first.training, first.validation
        return [Part(fold="", training=training, validation=validation, folder=self.folder)]

    def examples(self, learner: Learner, cases: Sequence[SnapshotCase]) -> list[Any]:
        """The cases, prepared; those that the task has nothing to learn from are left out."""
        found, shelf = [], Shelf(self.folder)
        for case in cases:
            with contextlib.suppress(NothingToLearnError):
                found.append(shelf.keep(learner.prepare(case.case, self.images(case), self.label(case))))
        return found

    def weights(self) -> dict[str, Tensor]:
        """The trained network's weights; of an ensemble those of every network, after its place and a dot."""
        found = [part.weights() for part in self.parts(self.plan())]
        if len(found) == 1:
            return found[0]
        return {f"{place}.{name}": tensor for place, one in enumerate(found) for name, tensor in one.items()}

    @property
    def trained(self) -> bool:
        return self.plan_file.exists() and all(part.weights_file.exists() for part in self.parts(self.plan()))

    def champion_bundle(self) -> Bundle | None:
        """The bundle of the present champion of the job's task, verified; None where there is none."""
        version = self.place.registry.champion_or_none(self.protocol.name, self.request.task)
        return self.place.registry.bundle(version) if version else None

    def case(self, case_id: str) -> SnapshotCase:
        return next(case for case in self.snapshot.cases if case.case == case_id)

    def test_case(self, case: SnapshotCase) -> TestCase:
        (image, *further), label = channels_of(self.images(case)), self.label(case)
        return TestCase(
            case=case.case,
            patient=case.patient,
            strata=case.strata,
            image=image,
            label=label,
            further={name: volume for (name, _), volume in zip(case.channels, further, strict=True)},
        )

    def images(self, case: SnapshotCase) -> Images:
        """The image, or its channels on one grid, by their digests, re-hashed as they are read."""
        blobs = self.place.store.blobs
        first = read_volume_bytes(blobs.get(case.image), ".nii.gz")
        if not case.channels:
            return first
        further = (read_volume_bytes(blobs.get(digest), ".nii.gz") for _, digest in case.channels)
        return (first, *(Volume(array_ZYX=one.array_ZYX, geometry=first.geometry) for one in further))

    def label(self, case: SnapshotCase) -> Label:
        return self.place.store.label(case.label)


@contextmanager
def _ended_in_words(run: RunLog) -> Iterator[RunLog]:
    """What fails or cancels the step is written in its run too, a mere interruption is not."""
    try:
        with run:
            yield run
    except TrainingCancelled:
        run.close("KILLED")
        raise
    except Exception:
        run.close("FAILED")
        raise


def keep_weights(part: Part, weights: Mapping[str, torch.Tensor]) -> None:
    part.folder.mkdir(exist_ok=True)
    write_durably(part.weights_file, safetensors.torch.save(dict(weights)))
