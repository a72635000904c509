"""What a training needs, of a site."""

from collections.abc import Iterator
from contextlib import contextmanager

from apps.settings import Site
from labeling_protocols.store import Store
from training.registry import Registry
from training.workplace import Workplace


def registry_of(site: Site) -> Registry:
    return Registry(site.tracking_uri, site.folder("bundles"), site.public_key)


@contextmanager
def workplace(site: Site) -> Iterator[Workplace]:
    store = Store(site.database_url, site.blobs)
    epochs = site.config.training.max_epochs
    try:
        yield Workplace(
            store=store,
            tracking_uri=site.tracking_uri,
            artifacts=site.folder("mlflow") / "artifacts",
            folder=site.folder("training"),
            bundles=site.folder("bundles"),
            change_plans=site.folder("change_control"),
            secret=site.secret,
            signing_key=site.signing_key,
            device=site.config.training.device,
            held_out_share=site.config.training.held_out_share,
            overrides={} if epochs is None else {"epochs": epochs},
        )
    finally:
        store.close()
