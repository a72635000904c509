"""A running server, a browser where there is one, and disputes to settle."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page

from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.label import Label
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Account, Case, Role
from labeling_protocols.settlement import settle
from labeling_protocols.worklist import next_case
from tests.annotation.served import Served, serving
from tests.conftest import OBLIQUE, image_of, label_of


@dataclass(frozen=True, kw_only=True)
class Disputed:
    """A case two readers disagree on; `reads` are theirs, by account id."""

    case: Case
    protocol: Protocol
    readers: tuple[Account, Account]
    labels: dict[str, Volume]


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("review") / "site") as server:
        yield server


@pytest.fixture
def adjudicator(served: Served) -> Account:
    return served.account(Role.ADJUDICATOR)


@pytest.fixture
def disputed(served: Served) -> Disputed:
    return dispute(served, served.protocol(), label_of(0), label_of(2))


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    """A window of a fresh browser profile; anything the pages complain about fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, base_url=served.url)
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if is_complaint(message) else None)
    page.on("request", lambda asked: complaints.append(asked.url) if not local(asked.url, served) else None)
    yield page
    context.close()
    assert complaints == []


def is_complaint(message: ConsoleMessage) -> bool:
    """Chromium also reports each refusal as an error; those are what some tests are about."""
    return message.type == "error" and not message.text.startswith("Failed to load resource")


def local(address: str, served: Served) -> bool:
    return address.startswith((served.url, "blob:", "data:"))


def sign_in(page: Page, account: Account, to: str) -> None:
    page.goto(to)
    page.fill("#name", account.name)
    page.fill("#password", f"{account.name}-password")
    page.press("#password", "Enter")
    page.wait_for_url(f"**{to}")


def dispute(
    served: Served, protocol: Protocol, first: Volume, second: Volume, geometry: Geometry = OBLIQUE
) -> Disputed:
    """A new case with these two labels as its reads."""
    case, _ = served.store.add_case(
        protocol=protocol.name, patient="P1", volume=image_of(next(served.numbers), geometry), modality="MR"
    )
    readers = (served.account(), served.account())
    labels = {}
    for reader, label in zip(readers, (first, second), strict=True):
        assert next_case(served.store, protocol.name, reader.id) == case
        served.store.save_read(case_id=case.id, reader=reader.id, label=Label.of(label))
        labels[reader.id] = label
    verdict = settle(served.store, case.id)
    assert verdict is not None
    assert not verdict.agreed
    return Disputed(case=case, protocol=protocol, readers=readers, labels=labels)
