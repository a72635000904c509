"""The MONAI Label app: a site's protocols become its models, trainers and strategy, its store the datastore.

`overread serve` runs it behind our own server (`server.py`). monailabel's loader finds the class too, with the site as
the studies folder or in OVERREAD_SITE; nobody is signed in there, so nothing of a reader is shown or saved.
"""

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from apps import compat

compat.mend()

from monailabel.interfaces.app import MONAILabelApp  # noqa: E402  needs mending first
from monailabel.interfaces.datastore import Datastore  # noqa: E402
from monailabel.interfaces.tasks.infer_v2 import InferTask  # noqa: E402
from monailabel.interfaces.tasks.scoring import ScoringMethod  # noqa: E402
from monailabel.interfaces.tasks.strategy import Strategy  # noqa: E402
from monailabel.interfaces.tasks.train import TrainTask  # noqa: E402

from apps.annotation.bundle_models import BundleModels  # noqa: E402
from apps.annotation.calling import caller_or_nobody  # noqa: E402
from apps.annotation.champions import Champions  # noqa: E402
from apps.annotation.datastore import ReadsDatastore  # noqa: E402
from apps.annotation.detection import DetectionInfer  # noqa: E402
from apps.annotation.infer import ChampionInfer  # noqa: E402
from apps.annotation.interactive import InteractiveInfer  # noqa: E402
from apps.annotation.model_policy import is_offered  # noqa: E402
from apps.annotation.nninteractive import KEY as NNINTERACTIVE  # noqa: E402
from apps.annotation.nninteractive import NnInteractiveInfer  # noqa: E402
from apps.annotation.scribbles import GMM, HISTOGRAM, ScribblesInfer  # noqa: E402
from apps.annotation.served_model import BACKGROUND, ServedModel  # noqa: E402
from apps.annotation.strategy import strategies  # noqa: E402
from apps.annotation.train import DurableTraining  # noqa: E402
from apps.jobs import Jobs  # noqa: E402
from apps.settings import Site  # noqa: E402
from apps.training_site import registry_of  # noqa: E402
from labeling_protocols.store import Store  # noqa: E402
from training.prepared_images import PreparedImages  # noqa: E402


class OverreadApp(MONAILabelApp):
    """One site as a MONAI Label app."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str], store: Store | None = None) -> None:
        site = Site(Path(os.environ.get("OVERREAD_SITE") or studies))
        self.site = site
        self.store = store or Store(site.database_url, site.blobs)
        self.jobs = Jobs(site)
        self.images = PreparedImages(site.config.inference.image_memory_mb * 2**20)
        registry = Path(site.tracking_uri.removeprefix("sqlite:///"))
        self.champions = Champions(registry_of(site), site.config.training.device, self.images, registry)
        folder, device = site.root / "models", self.champions.device
        self.bundles = BundleModels(folder, site.public_key, self.store, self.images, device)
        self._of_no_protocol: tuple[ServedModel, ...] = (
            ScribblesInfer(HISTOGRAM, self.store, self.images),
            ScribblesInfer(GMM, self.store, self.images),
            NnInteractiveInfer(folder / NNINTERACTIVE, self.store, self.images, device),
        )
        super().__init__(
            app_dir,
            studies,
            conf,
            name="Overread",
            description="Each reader labels his own cases; what readers agree on, or an adjudicator decides, is truth",
            version=version("overread"),
        )
        self._auto_update_scoring = False
        self._made_for: dict[str, str] = {}

    def _load_sessions(self, load: bool = False) -> None:
        """Uploaded images are kept by our own server, under names of ours (`sessions.py`)."""

    def init_datastore(self) -> Datastore:
        return ReadsDatastore(self.store, self.site.secret)

    def init_infers(self) -> dict[str, InferTask]:
        """Every protocol's champions, each task's under a name of its own; then what is of no protocol."""
        kinds = (ChampionInfer, InteractiveInfer, DetectionInfer)
        models = [kind(p, self.store, self.champions) for p in self.store.protocols() for kind in kinds]
        self._lasting = {model.key: model for model in (*models, *self._of_no_protocol)}
        return {**self._lasting, **self.bundles.models()}

    def init_trainers(self) -> dict[str, TrainTask]:
        return {p.name: DurableTraining(p, self.jobs) for p in self.store.protocols()}

    def init_strategies(self) -> dict[str, Strategy]:
        return strategies(self.store)

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        return {}

    def on_init_complete(self) -> None:
        """Nothing to do: scoring and session clean-up of the stock server are not used."""

    @property
    def reads(self) -> ReadsDatastore:
        return self._datastore

    def model(self, name: str) -> ServedModel | None:
        """The model of this name; a protocol added since the start has its own too."""
        self._follow_protocols()
        return self._infers.get(name)

    def trainers(self) -> dict[str, DurableTraining]:
        self._follow_protocols()
        return dict(self._trainers)

    def strategy(self, name: str) -> Strategy | None:
        return self._strategies.get(name)

    def info(self) -> dict[str, Any]:
        """What monailabel's clients ask first: the models there are and the caller may use, and all structures.

        3D Slicer makes a segment for each of the labels told here, and sends the clicks made in it under its name. The
        one for background comes last, so that it shifts the numbers of none when it is left out of a label.
        """
        self._follow_protocols()
        protocols = self.store.protocols()
        names = {name: None for protocol in protocols for name in protocol.values}
        told, served = super().info(), self._infers
        account = caller_or_nobody()
        models = {
            name: model
            for name, model in told["models"].items()
            if name in served and is_offered(served[name], account, protocols)
        }
        if any(BACKGROUND in model["labels"] for model in models.values()):
            names[BACKGROUND] = None
        return {**told, "models": models, "labels": list(names)}

    def close(self) -> None:
        self.jobs.close()
        self.store.close()

    def _follow_protocols(self) -> None:
        """Make models and trainers anew where the site's protocols, or its bundles, are not those of before."""
        protocols = {protocol.name: protocol.digest for protocol in self.store.protocols()}
        if protocols != self._made_for:
            self._infers, self._trainers = self.init_infers(), self.init_trainers()
            self._made_for = protocols
        else:
            self._infers = {**self._lasting, **self.bundles.models()}
