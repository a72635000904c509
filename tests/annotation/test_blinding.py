"""Two sites that differ only in other readers' work answer a reader alike: every route, byte by byte, header by header.

The second site is a copy of the first in which others then read, disagree, withdraw, skip, review and adjudicate.
"""

import itertools
import json
import logging
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from httpx import Response

from apps.accounts import Accounts
from apps.identity import COOKIE
from apps.settings import Site, make_site
from apps.web import create_app
from labeling_protocols import settlement, worklist
from labeling_protocols.label import Label
from labeling_protocols.protocol import SHIPPED, load_protocol
from labeling_protocols.records import Account, Case, Part, Role
from labeling_protocols.reviews import add_review
from labeling_protocols.settlement import adjudicate
from labeling_protocols.store import Store
from labeling_protocols.volumes import volume_bytes
from tests.annotation.test_roles import routes
from tests.conftest import image_of, label_of

CASES = 6
# What a reader can ask beside a path; a route that wants more than its path is listed here, or the test fails.
TAGS = ("", "final", "original", *(f"version_{number}" for number in range(1, 4)))
QUERIES: dict[str, tuple[str, ...]] = {
    "/datastore/": ("output=all", "output=train", "output=stats", ""),
    "/datastore/image": ("image={case}",),
    "/datastore/image/info": ("image={case}",),
    "/datastore/label": tuple(f"label={{case}}&tag={tag}" for tag in TAGS),
    "/datastore/label/info": tuple(f"label={{case}}&tag={tag}" for tag in TAGS),
    "/ohif/cases": ("series=1.2.3",),
    "/train/": ("", "check_if_running=true"),
}
# When the reader's own last save came, and how long it took: it comes a moment later in the second site.
_MOMENT = re.compile(rb"\d{4}-\d\d-\d\d[T ][0-9:.]+(\+00:00)?|\"seconds\": ?[0-9.e-]+|width:[0-9.]+%")


@dataclass
class World:
    """One of the two sites, asked as the reader by token and by cookie."""

    store: Store
    client: TestClient
    token: str

    def ask(self, method: str, path: str, *, cookie: bool = False, **what: object) -> Response:
        signed = {"Cookie": f"{COOKIE}={self.token}"} if cookie else {"Authorization": f"Bearer {self.token}"}
        return self.client.request(method, path, headers=signed, follow_redirects=False, **what)  # type: ignore[arg-type]


@dataclass(frozen=True)
class People:
    reader: Account
    others: tuple[Account, Account]
    adjudicator: Account
    token: str


def test_another_readers_work_changes_nothing_a_reader_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    people, cases = begin(tmp_path / "alone")
    shutil.copytree(tmp_path / "alone", tmp_path / "among others")
    work_of_others(Site(tmp_path / "among others"), people, cases)
    with opened(tmp_path / "alone", people) as alone, opened(tmp_path / "among others", people) as among:
        told = compare_everything(alone, among, cases, caplog)
        compare_saves(alone, among, cases)
        compare_everything(alone, among, cases, caplog)
    assert sum(status == 200 for status in told) > 50  # it was asked something
    for secret in (*(other.id for other in people.others), *(other.name for other in people.others), "not the patient"):
        assert secret not in caplog.text


def begin(root: Path) -> tuple[People, list[Case]]:
    """A site whose reader has read, saved twice, withdrawn, skipped, and left a case; four may read each case."""
    site = make_site(root)
    store = Store(site.database_url, site.blobs)
    protocol = replace(load_protocol(SHIPPED / "hippocampus.yaml"), readers_per_case=3)
    store.add_protocol(protocol)
    cases = sorted(
        (
            store.add_case(protocol=protocol.name, patient=f"P{n}", volume=image_of(n), modality="MR")[0]
            for n in range(CASES)
        ),
        key=lambda case: case.id,
    )
    store.save_prelabel(cases[0].id, "tests 1", Label.of(label_of(2)))
    accounts = Accounts(store, site)
    reader, first, second = (
        accounts.add(name, f"{name}-password", frozenset({Role.READER})) for name in ("ann", "benedict", "cleopatra")
    )
    adjudicator = accounts.add("dorothea", "dorothea-password", frozenset({Role.ADJUDICATOR}))
    for case in cases[:4]:
        worklist.reassign(store, case.id, from_reader=None, to_reader=reader.id, actor="tests")
    for case, shift in ((cases[0], 0), (cases[0], 1), (cases[1], 0)):
        save(store, case, reader, shift)
    store.withdraw(case_id=cases[1].id, reader=reader.id, actor=reader.id, reason="the wrong side")
    worklist.skip(store, cases[3].id, reader.id, "I know this patient")
    people = People(reader, (first, second), adjudicator, accounts.token(reader))
    store.close()
    return people, cases


def work_of_others(site: Site, people: People, cases: list[Case]) -> None:
    """Reads, a withdrawal, a skip, reviews and a dispute; one case is adjudicated, on another the reader comes last."""
    store = Store(site.database_url, site.blobs)
    first, second = people.others
    for other, shift in ((first, 0), (second, 3)):
        for case in cases[:3]:
            worklist.reassign(store, case.id, from_reader=None, to_reader=other.id, actor="tests")
        for case in (cases[0], cases[2]):
            save(store, case, other, shift)
    save(store, cases[1], first, 2)
    store.withdraw(case_id=cases[1].id, reader=first.id, actor=first.id, reason="not the patient's own side")
    worklist.reassign(store, cases[4].id, from_reader=None, to_reader=second.id, actor="tests")
    worklist.skip(store, cases[4].id, second.id, "not the patient I expected")
    assert [dispute.case for dispute in settlement.disputes(store, cases[0].protocol)] == [cases[0].id]
    for read in store.latest_reads(cases[0].id):
        add_review(store, read=read, reviewer=people.adjudicator.id, status="flagged", level="hard", comment="look")
    adjudicate(
        store,
        case_id=cases[0].id,
        adjudicator=people.adjudicator.id,
        parts=[Part(source=f"reader:{second.id}")],
        rationale="not the patient's own side",
        signing_key=site.signing_key,
    )
    store.close()


def save(store: Store, case: Case, reader: Account, shift: int) -> None:
    store.save_read(case_id=case.id, reader=reader.id, label=Label.of(label_of(shift)))


class opened:  # noqa: N801  a context manager is used as a word
    """A site served in this process."""

    def __init__(self, root: Path, people: People) -> None:
        self._app = create_app(Site(root))
        self._client = TestClient(self._app, raise_server_exceptions=False)
        self._token = people.token

    def __enter__(self) -> World:
        self._client.__enter__()
        return World(store=self._app.state.store, client=self._client, token=self._token)

    def __exit__(self, *error: object) -> None:
        self._client.__exit__(*error)  # type: ignore[arg-type]


def questions(world: World, cases: list[Case]) -> Iterator[tuple[str, str]]:
    """Every GET and HEAD there is, with each case in the place of a case, and `x` where nothing better is known."""
    for route in routes(world.client.app):  # type: ignore[arg-type]
        for method in sorted({"GET", "HEAD"} & set(route.methods or ())):
            for query, case in itertools.product(QUERIES.get(route.path, ("",)), cases):
                asked = f"{route.path}?{query}" if query else route.path
                yield method, re.sub(r"\{[^}]+\}", "x", asked.replace("{case}", case.id))


def compare_everything(alone: World, among: World, cases: list[Case], caplog: pytest.LogCaptureFixture) -> list[int]:
    told = []
    for (method, path), cookie in itertools.product(dict.fromkeys(questions(alone, cases)), (False, True)):
        if cookie and "?" in path:
            continue  # viewers' routes, which know no difference
        seen = []
        for world in (alone, among):
            caplog.clear()
            with caplog.at_level(logging.INFO, logger="overread"):
                answer = world.ask(method, path, cookie=cookie)
            assert answer.status_code not in (422, 500), (path, answer.text)
            seen.append((told_by(answer), [re.sub(r"\d+ ms", "", message) for message in caplog.messages]))
        assert seen[0] == seen[1], (method, path)
        told.append(answer.status_code)
    return told


def compare_saves(alone: World, among: World, cases: list[Case]) -> None:
    """A save that makes the next revision, one that is the last read a case waits for, and what may follow."""
    contents = {"params": json.dumps({"label_info": [{"name": "anterior", "idx": 1}, {"name": "posterior", "idx": 2}]})}
    label = {"label": ("label.nrrd", volume_bytes(label_of(2), ".nrrd"))}
    for case, tag in ((cases[0], ""), (cases[2], "version_1"), (cases[2], "version_7"), (cases[1], ""), (cases[5], "")):
        path = f"/datastore/label?image={case.id}&tag={tag}"
        assert_alike(alone, among, "PUT", path, data=contents, files=label)
    for case in cases:
        assert_alike(alone, among, "POST", f"/worklist/skip?case={case.id}", json={"reason": "not mine"})
        assert_alike(alone, among, "POST", f"/infer/hippocampus?image={case.id}")
        assert_alike(alone, among, "PUT", f"/datastore/updatelabelinfo?label={case.id}&tag=version_1")
    for _ in range(3):
        assert_alike(alone, among, "POST", "/activelearning/worklist", json={"protocol": "hippocampus"})


def assert_alike(alone: World, among: World, method: str, path: str, **what: object) -> None:
    first, second = (told_by(world.ask(method, path, **what)) for world in (alone, among))
    assert first == second, (method, path)


def told_by(answer: Response) -> tuple[int, list[tuple[str, str]], bytes]:
    """Everything an answer says, but for the present moment."""
    content = _MOMENT.sub(b"", answer.content)
    passing = {"date"} if content == answer.content else {"date", "content-length"}
    headers = [(name, value) for name, value in answer.headers.multi_items() if name not in passing]
    return answer.status_code, headers, content
