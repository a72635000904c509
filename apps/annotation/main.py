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

from apps.annotation.calling import caller_or_nobody  # noqa: E402
from apps.annotation.datastore import ReadsDatastore  # noqa: E402
from apps.annotation.infer import ChampionInfer, Champions  # noqa: E402
from apps.annotation.strategy import Worklist  # noqa: E402
from apps.annotation.train import DurableTraining  # noqa: E402
from apps.jobs import Jobs  # noqa: E402
from apps.settings import Site  # noqa: E402
from apps.training_site import registry_of  # noqa: E402
from labeling_protocols.protocol import PrelabelPolicy  # noqa: E402
from labeling_protocols.records import Role  # noqa: E402
from labeling_protocols.store import Store  # noqa: E402

STRATEGY = "worklist"


class OverreadApp(MONAILabelApp):
    """One site as a MONAI Label app."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str], store: Store | None = None) -> None:
        site = Site(Path(os.environ.get("OVERREAD_SITE") or studies))
        self.site = site
        self.store = store or Store(site.database_url, site.blobs)
        self.jobs = Jobs(site)
        registry = registry_of(site)
        self.champions = Champions(registry, site.config.training.device)
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
        return {p.name: ChampionInfer(p, self.store, self.champions) for p in self.store.protocols()}

    def init_trainers(self) -> dict[str, TrainTask]:
        return {p.name: DurableTraining(p, self.jobs) for p in self.store.protocols()}

    def init_strategies(self) -> dict[str, Strategy]:
        return {STRATEGY: Worklist(self.store)}

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        return {}

    def on_init_complete(self) -> None:
        """Nothing to do: scoring and session clean-up of the stock server are not used."""

    @property
    def reads(self) -> ReadsDatastore:
        return self._datastore

    def model(self, name: str) -> ChampionInfer | None:
        """The model of this name; a protocol added since the start has its own too."""
        self._follow_protocols()
        return self._infers.get(name)

    def trainers(self) -> dict[str, DurableTraining]:
        self._follow_protocols()
        return dict(self._trainers)

    def strategy(self, name: str) -> Strategy | None:
        return self._strategies.get(name)

    def info(self) -> dict[str, Any]:
        """What monailabel's clients ask first; models are named only where there is a champion."""
        self._follow_protocols()
        protocols = self.store.protocols()
        names = {name: None for protocol in protocols for name in protocol.values}
        told = super().info()
        account = caller_or_nobody()
        if account is not None and Role.READER in account.roles:
            # Viewers offer what they are told of, and can run it on each new case.
            kept = {protocol.name for protocol in protocols if protocol.prelabels is PrelabelPolicy.NEVER}
            told["models"] = {name: model for name, model in told["models"].items() if name not in kept}
        return {**told, "labels": list(names)}

    def close(self) -> None:
        self.jobs.close()
        self.store.close()

    def _follow_protocols(self) -> None:
        """Make models and trainers anew where the site's protocols are not those they were made for."""
        protocols = {protocol.name: protocol.digest for protocol in self.store.protocols()}
        if protocols != self._made_for:
            self._infers, self._trainers = self.init_infers(), self.init_trainers()
            self._made_for = protocols
