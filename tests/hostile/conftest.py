"""A site between canaries: files beside it whose text no answer may ever hold, and a tree that nothing may change."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests

from labeling_protocols.label import Label
from labeling_protocols.records import Account, Case, Role
from tests.annotation.served import Served, serving
from tests.conftest import label_of

CANARY = "canary-7f3a9c1e-sings-only-outside"


@dataclass
class Besieged:
    """A running site, people of every role, cases, and what lies around the site."""

    served: Served
    cases: list[Case]
    people: dict[str, Account | None]
    before: dict[str, str] = field(default_factory=dict)

    @property
    def around(self) -> Path:
        return self.served.site.root.parent

    def headers(self, who: str) -> dict[str, str]:
        """Of a fresh token: whatever was done, nobody stays signed out."""
        account = self.people[who]
        return {"Authorization": f"Bearer {self.served.accounts.token(account)}"} if account is not None else {}

    def check(self, answer: requests.Response) -> None:
        """No answer is a fault of the server, and none holds what lies outside the site."""
        assert answer.status_code < 500, f"{answer.request.method} {answer.request.url}: {answer.text[:500]}"
        assert CANARY.encode() not in answer.content
        assert str(self.around).encode() not in answer.content
        if answer.status_code >= 400 and "json" in answer.headers.get("content-type", "") and answer.content:
            assert set(answer.json()) == {"detail"}, answer.text

    def outside(self) -> dict[str, str]:
        """Every file and folder beside the site, with its content's digest."""
        found = {}
        for folder, folders, files in os.walk(self.around):
            if Path(folder) == self.around:
                folders.remove(self.served.site.root.name)
            for name in folders:
                found[str(Path(folder) / name)] = "folder"
            for name in files:
                path = Path(folder) / name
                found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found


@pytest.fixture(scope="module")
def besieged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Besieged]:
    around = tmp_path_factory.mktemp("around")
    for name in ("canary.txt", "canary.nrrd", "canary.nii.gz", "site.txt"):
        (around / name).write_text(CANARY)
    (around / "labels" / "final").mkdir(parents=True)
    (around / "labels" / "final" / "canary.nrrd").write_text(CANARY)
    with serving(around / "site") as served:
        cases = served.cases(served.store.protocol("hippocampus"), 3)
        people = {role.value: served.account(role) for role in (Role.READER, Role.ADJUDICATOR, Role.ADMINISTRATOR)}
        other = served.account()
        for case in cases[:2]:
            served.seat(people["reader"], case)
            served.seat(other, case)
        served.store.save_prelabel(cases[0].id, "tests 1", Label.of(label_of(1)))
        for reader, shift in ((people["reader"], 0), (other, 3)):
            served.store.save_read(case_id=cases[0].id, reader=reader.id, label=Label.of(label_of(shift)))
        found = Besieged(served=served, cases=cases, people={"nobody": None, **people})
        found.before = found.outside()
        assert len(found.before) > 5
        yield found
        assert found.outside() == found.before
