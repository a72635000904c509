"""A site's web server, running, for tests that come in over HTTP as viewers and browsers do."""

import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import requests
import uvicorn
from fastapi import FastAPI
from monailabel.client.client import MONAILabelClient

from apps.accounts import Accounts
from apps.settings import Site, make_site
from apps.web import create_app
from labeling_protocols import worklist
from labeling_protocols.geometry import Volume
from labeling_protocols.protocol import SHIPPED, Protocol, load_protocol
from labeling_protocols.records import Account, Case, Role
from labeling_protocols.store import Store
from labeling_protocols.volumes import write_volume
from tests.conftest import image_of
from tests.ports import free_ports

INFO = [{"name": "anterior", "idx": 1}, {"name": "posterior", "idx": 2}]


@dataclass
class Served:
    """A running server, and the site behind it for setting up and looking at what was kept."""

    url: str
    site: Site
    store: Store
    accounts: Accounts
    app: FastAPI
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def account(self, *roles: Role, name: str | None = None) -> Account:
        name = name or f"person{next(self.numbers)}"
        return self.accounts.add(name, f"{name}-password", frozenset(roles or {Role.READER}))

    def protocol(self, **changes: Any) -> Protocol:
        """A protocol of its own, so that no other test's cases are handed out."""
        shipped = load_protocol(SHIPPED / "hippocampus.yaml")
        protocol = replace(shipped, **{"name": f"protocol_{next(self.numbers)}", **changes})
        self.store.add_protocol(protocol)
        return protocol

    def cases(self, protocol: Protocol, count: int = 1) -> list[Case]:
        return [
            self.store.add_case(
                protocol=protocol.name, patient=f"P{number}", volume=image_of(next(self.numbers)), modality="MR"
            )[0]
            for number in range(count)
        ]

    def seat(self, account: Account, *cases: Case) -> None:
        """Give a reader seats on these very cases."""
        for case in cases:
            worklist.reassign(self.store, case.id, from_reader=None, to_reader=account.id, actor="tests")

    def client(self, account: Account) -> MONAILabelClient:
        """monailabel's own client, signed in as 3D Slicer does it."""
        client = MONAILabelClient(self.url)
        client.update_auth(client.auth_token(account.name, f"{account.name}-password"))
        return client

    def client_at_address(self, account: Account) -> MONAILabelClient:
        return MONAILabelClient(f"{self.url}/u/{self.accounts.new_address(account)}")

    def session(self, account: Account) -> requests.Session:
        """A program that holds the account's token."""
        session = requests.Session()
        session.headers["Authorization"] = f"Bearer {self.accounts.token(account)}"
        return session

    def save(self, account: Account, case: str, label: Volume, folder: Path, **params: Any) -> dict[str, Any]:
        path = folder / f"label{next(self.numbers)}.nrrd"
        write_volume(label, path)
        answer: dict[str, Any] = self.client(account).save_label(case, str(path), params={"label_info": INFO, **params})
        return answer

    def put_label(self, account: Account, case: str, content: bytes, **how: Any) -> requests.Response:
        """A save request as it is on the wire, for what no viewer would send."""
        return self.session(account).put(
            f"{self.url}/datastore/label",
            params={"image": case, **({"tag": how["tag"]} if "tag" in how else {})},
            data={"params": how.get("params", json.dumps({"label_info": INFO}))},
            files={"label": (how.get("filename", "label.nrrd"), content)},
        )


@contextmanager
def serving(root: Path, settings: str = "", port: int | None = None) -> Iterator[Served]:
    """A new site with the hippocampus protocol and its server on a free port; `settings` are its config.toml."""
    site = make_site(root)
    if settings:
        (root / "config.toml").write_text(settings)
        site = Site(root)
    app = create_app(site)
    store: Store = app.state.store
    store.add_protocol(load_protocol(SHIPPED / "hippocampus.yaml"))
    port = port or free_ports(1)[0]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, access_log=False, lifespan="on"))
    thread = threading.Thread(target=server.run, name="web server", daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server ended before it answered"
        thread.join(0.02)
    try:
        yield Served(url=f"http://127.0.0.1:{port}", site=site, store=store, accounts=Accounts(store, site), app=app)
    finally:
        server.should_exit = True
        thread.join()
