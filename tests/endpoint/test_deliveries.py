"""What is made of a series waits for each destination by itself, for as long as it takes, and goes out once."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydicom import dcmread
from typer.testing import CliRunner

from apps.command import app
from apps.endpoint import results
from apps.endpoint.results import Delivery, DeliveryState, Result, ResultState, record
from apps.endpoint.sender import Sender
from apps.settings import Site
from labeling_protocols import schema
from labeling_protocols.series_writer import series_datasets
from labeling_protocols.store import Store, now
from tests.conftest import image_of
from tests.dicom.examples import AXIAL, identity_of
from tests.endpoint.peers import Destination, free_port, site_with_endpoint
from training.release_stage import Stage

PACS, ARCHIVE = "PACS", "ARCHIVE"


@pytest.fixture
def ports() -> tuple[int, int]:
    return free_port(), free_port()


@pytest.fixture
def site(tmp_path: Path, ports: tuple[int, int]) -> Site:
    """A site with two destinations, neither of which is there yet."""
    made = site_with_endpoint(tmp_path / "site", destination=ports[0])
    with (made.root / "config.toml").open("a") as settings:
        settings.write(f'[[dicom.destinations]]\nae_title = "{ARCHIVE}"\nhost = "127.0.0.1"\nport = {ports[1]}\n')
    return Site(made.root)


@pytest.fixture
def store(site: Site) -> Iterator[Store]:
    opened = Store(site.database_url, site.blobs)
    yield opened
    opened.close()


@pytest.fixture
def sender(site: Site) -> Iterator[Sender]:
    one = Sender(site)
    yield one
    one.close()


def made(site: Site, store: Store, name: str, *, instances: str = "0", **values: object) -> int:
    """A result with one object to go out."""
    image = series_datasets(image_of(1, AXIAL), identity_of(f"{name}{instances}"))[0]
    image.save_as(site.folder("results") / f"{image.SOPInstanceUID}.dcm", enforce_file_format=True)
    told = Result(
        series=f"1.2.{len(name)}",
        study="1.3",
        instances=instances * 64,
        state=ResultState.DONE,
        protocol="hippocampus",
        model="hippocampus-segmentation 1.0.0",
        sr=f"{image.SOPInstanceUID}.dcm",
        **values,  # type: ignore[arg-type]
    )
    return record(store, told, (PACS, ARCHIVE))


def states(store: Store, number: int) -> dict[str, DeliveryState]:
    return {one.destination: one.state for one in results.deliveries(store, number)}


def send_now(sender: Sender, store: Store) -> int:
    """One round, as if every wait were over."""
    with store.writing() as connection:
        waiting = schema.deliveries.c.state == DeliveryState.WAITING.value
        connection.execute(sa.update(schema.deliveries).where(waiting).values(due=now()))
    return sender.send_due(threading.Event())


def test_one_destination_that_is_away_keeps_nothing_from_the_other(
    site: Site, store: Store, sender: Sender, ports: tuple[int, int]
) -> None:
    numbers = [made(site, store, name) for name in ("a", "bb", "ccc")]
    archive = Destination(ports[1], ae_title=ARCHIVE)
    try:
        assert sender.send_due(threading.Event()) == 4, "three that arrive, and one that says the PACS is away"
    finally:
        archive.close()
    for number in numbers:
        assert states(store, number) == {PACS: DeliveryState.WAITING, ARCHIVE: DeliveryState.DELIVERED}
    [tried, *_] = [one for one in results.deliveries(store, numbers[0]) if one.destination == PACS]
    assert tried.attempts == 1
    assert "took no association" in tried.reason
    assert tried.due > now()
    pacs = Destination(ports[0])
    try:
        assert send_now(sender, store) == 3
        assert send_now(sender, store) == 0
    finally:
        pacs.close()
    assert len({image.SOPInstanceUID for image in pacs.received}) == len(pacs.received) == 3


def test_waits_double_up_to_five_minutes(site: Site, store: Store, sender: Sender) -> None:
    number = made(site, store, "a")
    waits = []
    for _ in range(11):
        began = now()
        send_now(sender, store)
        [one] = [one for one in results.deliveries(store, number) if one.destination == PACS]
        waits.append(round((one.due - began).total_seconds()))
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_urgent_results_go_out_first(site: Site, store: Store, sender: Sender, ports: tuple[int, int]) -> None:
    made(site, store, "a", priority=3)
    urgent = results.result(store, made(site, store, "bb", priority=1))
    pacs = Destination(ports[0])
    try:
        sender.send_due(threading.Event())
    finally:
        pacs.close()
    assert f"{pacs.received[0].SOPInstanceUID}.dcm" == urgent.sr


def test_what_was_given_up_is_listed_and_goes_out_when_somebody_asks(
    site: Site, store: Store, sender: Sender, ports: tuple[int, int]
) -> None:
    number = made(site, store, "a")
    with store.writing() as connection:
        connection.execute(sa.update(schema.deliveries).values(created=now() - timedelta(hours=49)))
    sender.send_due(threading.Event())
    assert set(states(store, number).values()) == {DeliveryState.DEAD}
    assert send_now(sender, store) == 0
    run = CliRunner()
    listed = run.invoke(app, ["endpoint", "deliveries", "--site", str(site.root)]).output
    assert listed.count("dead") == 2
    assert "took no association" in listed
    assert "2 go out again." in run.invoke(app, ["endpoint", "send-again", "--site", str(site.root)]).output
    pacs, archive = Destination(ports[0]), Destination(ports[1], ae_title=ARCHIVE)
    try:
        sender.send_due(threading.Event())
    finally:
        pacs.close()
        archive.close()
    assert set(states(store, number).values()) == {DeliveryState.DELIVERED}
    assert "delivered" in run.invoke(app, ["endpoint", "results", "--site", str(site.root)]).output
    unknown = run.invoke(app, ["endpoint", "send-again", "99", "--site", str(site.root)])
    assert "there is no delivery 99" in str(unknown.exception)


def test_an_object_that_is_gone_is_said_and_the_others_go_out(
    site: Site, store: Store, sender: Sender, ports: tuple[int, int]
) -> None:
    lost, whole = made(site, store, "a"), made(site, store, "bb")
    (site.folder("results") / str(results.result(store, lost).sr)).unlink()
    pacs = Destination(ports[0])
    try:
        sender.send_due(threading.Event())
        send_now(sender, store)
    finally:
        pacs.close()
    assert states(store, whole)[PACS] == DeliveryState.DELIVERED
    [waiting] = [one for one in results.deliveries(store, lost) if one.destination == PACS]
    assert waiting.reason == "the object could not be read (No such file or directory)"


def test_the_same_result_twice_is_one_and_a_later_set_supersedes_it(site: Site, store: Store) -> None:
    first = made(site, store, "a")
    assert made(site, store, "a") == first
    assert len(results.deliveries(store)) == 2
    made(site, store, "a", instances="1", stage=Stage.SHADOW)
    assert results.result(store, first).superseded_by is None
    assert results.predecessor(store, "1.2.1", "2" * 64, "hippocampus") == results.result(store, first)
    later = made(site, store, "a", instances="2")
    assert results.result(store, first).superseded_by == later


def test_a_set_that_was_not_run_because_more_came_is_superseded_by_what_came(site: Site, store: Store) -> None:
    early = Result(series="1.2.1", study="1.3", instances="e" * 64, state=ResultState.REFUSED, reason="more came")
    refused = record(store, early)
    later = made(site, store, "a")
    assert results.result(store, refused).superseded_by == later


def test_a_destination_that_is_no_longer_in_the_settings_is_named(site: Site, store: Store) -> None:
    number = made(site, store, "a")
    path = site.root / "config.toml"
    path.write_text(path.read_text().replace(ARCHIVE, "ELSEWHERE"))
    sender = Sender(Site(site.root))
    sender.send_due(threading.Event())
    sender.close()
    found: dict[str, Delivery] = {one.destination: one for one in results.deliveries(store, number)}
    assert found[ARCHIVE].reason == f"{ARCHIVE} is not among the settings' destinations any more"


def test_objects_are_sent_as_they_were_kept(site: Site, store: Store, sender: Sender, ports: tuple[int, int]) -> None:
    number = made(site, store, "a")
    pacs = Destination(ports[0])
    try:
        sender.send_due(threading.Event())
    finally:
        pacs.close()
    assert pacs.received[0] == dcmread(site.folder("results") / str(results.result(store, number).sr))
