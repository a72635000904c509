"""Nothing that opens an account stands in a log: the real server is driven with secrets in every place and form."""

import http.client
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from apps.accounts import Accounts
from apps.identity import COOKIE
from apps.settings import make_site
from labeling_protocols.protocol import SHIPPED, load_protocol
from labeling_protocols.records import Role
from labeling_protocols.store import Store
from tests.conftest import image_of
from tests.ports import with_free_ports

PASSWORD = "correct-horse-battery"


@dataclass(frozen=True, kw_only=True)
class Running:
    """The web server as `overread serve` starts it, and what it has said so far."""

    port: int
    log: Path
    secret: str
    token: str
    case: str

    def ask(self, method: str, target: str, body: str = "", **headers: str) -> tuple[int, bytes]:
        """A request whose target is sent as it is: client libraries would tidy it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.putrequest(method, target, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body.encode())
        answer = connection.getresponse()
        return answer.status, str(answer.getheaders()).encode() + answer.read()

    def said(self) -> str:
        return self.log.read_text(errors="replace")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("logged")
    site = with_free_ports(make_site(folder / "site"))
    store = Store(site.database_url, site.blobs)
    store.add_protocol(load_protocol(SHIPPED / "hippocampus.yaml"))
    case, _ = store.add_case(protocol="hippocampus", patient="P1", volume=image_of(1), modality="MR")
    accounts = Accounts(store, site)
    account = accounts.add("ann", PASSWORD, frozenset({Role.READER, Role.ADJUDICATOR}))
    secret, token = accounts.new_address(account), accounts.token(account)
    # What a broken disk would do: the server cannot read what its database refers to.
    store.blobs.path(case.image).unlink()
    store.close()
    log = folder / "web.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "apps.web", "--site", str(site.root)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=output)
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(b"web: ready")
            yield Running(port=site.config.web.port, log=log, secret=secret, token=token, case=case.id)
        finally:
            process.terminate()
            process.wait()


def test_a_personal_address_works_and_is_in_no_log_and_no_answer(running: Running) -> None:
    s = running.secret
    once = "".join(f"%{ord(character):02X}" for character in s)
    twice = once.replace("%", "%25")
    html = {"Accept": "text/html"}
    good = [
        f"/u/{s}/info/",
        f"//u/{s}/info/",
        f"/%75/{s}/info/",
        f"/u/{once}/info/",
        f"/u/{s}//info/",
        f"/u/{s}%2Finfo/",
    ]
    for target in good:
        status, answer = running.ask("GET", target)
        assert status == 200, target
        assert s.encode() not in answer, target
    odd = [
        (f"/u//{s}/info/", {}),
        (f"/u/{s}", {}),
        (f"/U/{s}/info/", {}),
        (f"/x/u/{s}/info/", {}),
        (f"/u/x/u/{s}/info/", {}),
        (f"/%2575/{s}/info/", {}),
        (f"/u/{twice}/info/", {}),
        (f"/u/{s}/nowhere/{s}", {}),
        (f"/u/{s}/datastore/image?image={s}", {}),
        (f"/u/{s}/datastore/label?label={running.case}&tag=../{s}", {}),
        (f"/u/{s}/review/", html),
        (f"/u/{s}/account", html),
        (f"/sign-in?next=/u/{s}/", {}),
        (f"/review/?from=/u/{s}/", {}),
        (f"/info/?secret={s}", {}),
        ("/info/", {"Referer": f"http://127.0.0.1/u/{s}/"}),
        ("/info/", {"Authorization": f"Bearer {s}"}),
    ]
    for target, headers in odd:
        assert running.ask("GET", target, **headers)[0] < 500, target
    said = running.said()
    assert said.count("GET /u/…/info/ 200") == len(good)
    assert "no such route 404" in said
    for form in (s, once, twice, s[:12], s[-12:]):
        assert form not in said


def test_an_error_of_the_server_tells_no_secret_either(running: Running) -> None:
    s = running.secret
    status, answer = running.ask("GET", f"/u/{s}/datastore/image?image={running.case}")
    assert status >= 500
    assert s.encode() not in answer
    for line in (
        f"GET /u/{s}/ HTTP/9.9",
        f"GET /u/{s}/ nonsense",
        f"/u/{s}/",
        f"GET /u/{s}/ HTTP/1.1\r\nbad header {s}",
    ):
        with socket.create_connection(("127.0.0.1", running.port), timeout=30) as raw:
            raw.sendall(f"{line}\r\n\r\n".encode())
            raw.settimeout(30)
            assert s.encode() not in raw.recv(65536)
    said = running.said()
    assert "/u/…/datastore/image" in said
    assert s not in said


def test_passwords_and_tokens_are_in_no_log(running: Running) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    grant = f"username=ann&password={PASSWORD}&grant_type=password"
    assert running.ask("POST", "/auth/token", grant, **form)[0] == 200
    assert running.ask("POST", "/auth/token", grant.replace(PASSWORD, PASSWORD + "-wrong"), **form)[0] == 401
    assert running.ask("POST", "/auth/token", f"username={PASSWORD}", **form)[0] == 422
    assert running.ask("POST", "/sign-in", f"name=ann&password={PASSWORD}", **form)[0] == 303
    assert running.ask("GET", "/info/", Authorization=f"Bearer {running.token}")[0] == 200
    assert running.ask("GET", "/info/", Authorization=f"Bearer {running.token}x")[0] == 401
    assert running.ask("GET", f"/info/?token={running.token}", Cookie=f"{COOKIE}={running.token}")[0] == 200
    said = running.said()
    for secret in (PASSWORD, running.token, *running.token.split(".")[1:]):
        assert secret not in said
    assert re.search(r"POST /auth/token 401 \d+ ms", said)
