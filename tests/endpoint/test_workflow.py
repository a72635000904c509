"""A series that arrives comes back as one segmentation and one report of the champion, or as a refusal in words."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from apps.endpoint.inbox import Inbox
from apps.endpoint.results import DeliveryState, Result, ResultState, deliveries, results
from apps.settings import Site
from apps.training_site import registry_of
from labeling_protocols.dicom_seg import label_from_seg
from labeling_protocols.dicom_sr import volumes_from_sr
from labeling_protocols.geometry import Volume
from labeling_protocols.protocol import Protocol
from labeling_protocols.series_writer import series_datasets, write_series
from labeling_protocols.store import Store
from tests.conftest import OBLIQUE
from tests.dicom.examples import dciodvfy_errors, identity_of, uid
from tests.endpoint.champion import phantom_of, release_champion
from tests.endpoint.peers import Destination, Process, free_port, send, site_with_endpoint, wait_until
from training.registry import ModelVersion
from training.release_stage import Stage
from training.release_stages import begin, end


@dataclass
class House:
    """A running endpoint with its worker and a destination, and its champion once it is released."""

    site: Site
    store: Store
    endpoint: Process
    worker: Process
    sender: Process
    destination: Destination
    champion: ModelVersion | None = None

    def result_of(self, name: str) -> Result:
        """The result of all that came of a series, waited for until it has gone out."""
        series = uid(name, "series")
        arrived = Inbox(self.store, self.site.folder("inbox")).arrived(series)
        assert arrived is not None

        def of_all() -> list[Result]:
            return [one for one in results(self.store, series) if one.instances == arrived.digest]

        wait_until(lambda: bool(of_all()))
        result = of_all()[-1]
        wait_until(lambda: all(one.state != DeliveryState.WAITING for one in deliveries(self.store, result.id)))
        return result

    def delivered(self, name: str) -> dict[str, Dataset]:
        """What the destination got for a study, by modality."""
        study = uid(name, "study")
        return {image.Modality: image for image in self.destination.received if image.StudyInstanceUID == study}

    def restart_worker(self) -> None:
        self.worker.kill()
        self.worker = Process("-m", "apps.worker", "--site", str(self.site.root))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, protocol: Protocol) -> Iterator[House]:
    """The series 'early' arrives before the champion is released, every other one after."""
    port = free_port()
    site = site_with_endpoint(tmp_path_factory.mktemp("house") / "site", quiet_seconds=0.4, destination=port)
    store = Store(site.database_url, site.blobs)
    store.add_protocol(protocol)
    root = str(site.root)
    house = House(
        site=site,
        store=store,
        endpoint=Process("-m", "apps.endpoint", "--site", root),
        worker=Process("-m", "apps.worker", "--site", root),
        sender=Process("-m", "apps.endpoint.sender", "--site", root),
        destination=Destination(port),
    )
    try:
        send(site, images_of("early"))
        house.result_of("early")
        house.champion = release_champion(site, protocol)
        yield house
    finally:
        house.worker.kill()
        house.sender.kill()
        house.endpoint.stop()
        house.destination.close()
        store.close()


def images_of(name: str, modality: str = "MR", image: Volume | None = None) -> list[Dataset]:
    return series_datasets(image or phantom_of(OBLIQUE)[0], identity_of(name), modality=modality)


def test_before_there_is_a_champion_a_series_is_refused_and_kept(house: House) -> None:
    result = house.result_of("early")
    assert (result.state, result.seg, result.sr) == (ResultState.REFUSED, None, None)
    assert "no model of protocol hippocampus has passed the gate yet" in result.reason
    assert house.delivered("early") == {}


def test_a_series_in_any_order_comes_back_segmented_at_its_place(
    house: House, protocol: Protocol, tmp_path: Path
) -> None:
    image, label = phantom_of(OBLIQUE)
    paths = write_series(image, tmp_path, identity_of("whole"), flipped=True, shuffle=11)
    send(house.site, [dcmread(path) for path in sorted(paths)])
    result = house.result_of("whole")
    assert house.champion is not None
    assert (result.state, result.reason) == (ResultState.DONE, "")
    assert (result.model, result.bundle) == ("hippocampus-segmentation 1.0.1", house.champion.bundle_sha256)
    seg = house.delivered("whole")["SEG"]
    assert np.array_equal(label_from_seg(seg, protocol, OBLIQUE).array_ZYX, label.array_ZYX)
    voxel_ml = 0.8 * 1.1 * 2.5 / 1000
    assert volumes_from_sr(house.delivered("whole")["SR"]) == pytest.approx(
        {"anterior": 11 * voxel_ml, "posterior": 9 * voxel_ml}
    )


def test_results_carry_the_original_study_and_the_model_version_and_a_copy_is_kept(house: House) -> None:
    images = images_of("kept")
    send(house.site, images)
    result = house.result_of("kept")
    devices = []
    for modality, name in (("SEG", str(result.seg)), ("SR", str(result.sr))):
        kept = house.site.folder("results") / name
        delivered = house.delivered("kept")[modality]
        assert dcmread(kept).SOPInstanceUID == delivered.SOPInstanceUID
        assert (delivered.StudyInstanceUID, delivered.PatientID) == (uid("kept", "study"), "ID-kept")
        assert dciodvfy_errors(kept) == []
        devices += [item for item in delivered.ContributingEquipmentSequence if "DeviceUID" in item]
    references = house.delivered("kept")["SEG"].ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {item.ReferencedSOPInstanceUID for item in references} == {image.SOPInstanceUID for image in images}
    assert [device.SoftwareVersions for device in devices] == ["1.0.1", "1.0.1"]
    assert len({device.DeviceUID for device in devices}) == 1


def test_a_series_in_which_nothing_is_found_gets_a_report_that_says_so(house: House) -> None:
    empty = Volume(array_ZYX=np.full(OBLIQUE.shape_ZYX, 100, np.int16), geometry=OBLIQUE)
    send(house.site, images_of("nothing", image=empty))
    result = house.result_of("nothing")
    assert (result.state, result.seg) == (ResultState.DONE, None)
    assert house.delivered("nothing").keys() == {"SR"}
    assert volumes_from_sr(house.delivered("nothing")["SR"]) == {"anterior": 0.0, "posterior": 0.0}


@pytest.mark.parametrize(
    ("name", "images", "reason"),
    [
        ("gap", [*images_of("gap")[:2], *images_of("gap")[3:]], "missing slice: 1 or more between"),
        ("ct", images_of("ct", "CT"), "settings: modality is CT, expected MR; no rule takes it. Kept, not run."),
    ],
)
def test_a_series_that_cannot_be_read_is_refused_with_its_reason_and_kept(
    name: str, images: list[Dataset], reason: str, house: House
) -> None:
    assert set(send(house.site, images)) == {0x0000}
    result = house.result_of(name)
    assert result.state == ResultState.REFUSED
    assert reason in result.reason
    assert house.delivered(name) == {}


def test_images_without_pixel_data_are_refused_with_the_reason(house: House) -> None:
    images = images_of("pixelless")
    for image in images:
        del image.PixelData
    send(house.site, images)
    result = house.result_of("pixelless")
    assert (result.state, result.study) == (ResultState.REFUSED, uid("pixelless", "study"))
    assert result.reason == "MR Image Storage: an object without pixel data, an image was expected"


def test_own_results_that_come_back_are_not_run_again(house: House) -> None:
    send(house.site, images_of("loop"))
    house.result_of("loop")
    made = list(house.delivered("loop").values())
    delivered_before = len(house.destination.received)
    assert send(house.site, made) == [0x0000] * 2
    for instance in made:
        wait_until(lambda series=instance.SeriesInstanceUID: bool(results(house.store, series)))  # type: ignore[misc]
        (result,) = results(house.store, instance.SeriesInstanceUID)
        assert result.state == ResultState.REFUSED
        assert result.reason == "a result of this endpoint that came back; kept, not run"
    assert len(house.destination.received) == delivered_before


def test_late_slices_make_a_second_result_with_objects_of_its_own(house: House) -> None:
    images = images_of("late", image=phantom_of(replace(OBLIQUE, shape_ZYX=(8, 10, 8)))[0])
    send(house.site, images[:6])
    first = house.result_of("late")
    send(house.site, images[6:])
    wait_until(lambda: len(results(house.store, uid("late", "series"))) == 2)
    second = house.result_of("late")
    assert first.instances != second.instances
    assert first.seg != second.seg
    assert (second.state, second.reason) == (ResultState.DONE, "")
    assert [one.superseded_by for one in results(house.store, uid("late", "series"))] == [second.id, None]
    report = next(one for one in house.destination.received if f"{one.SOPInstanceUID}.dcm" == second.sr)
    [study] = report.PredecessorDocumentsSequence
    [before] = study.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert f"{before.ReferencedSOPInstanceUID}.dcm" == first.sr
    assert dciodvfy_errors(house.site.folder("results") / str(second.sr)) == []


def test_a_destination_that_refuses_at_first_gets_the_result_in_the_end(house: House) -> None:
    house.destination.refuse(1)
    send(house.site, images_of("retry"))
    assert house.result_of("retry").state == ResultState.DONE
    assert house.delivered("retry").keys() == {"SEG", "SR"}


def test_what_a_killed_sender_had_not_finished_goes_out_once_it_is_back(house: House) -> None:
    with house.destination.holding():
        send(house.site, images_of("killed"))
        house.destination.wait_for_sender()
        house.sender.kill()
    [result] = results(house.store, uid("killed", "series"))
    [waiting] = deliveries(house.store, result.id)
    assert (result.state, waiting.state, waiting.destination) == (ResultState.DONE, DeliveryState.WAITING, "PACS")
    house.sender = Process("-m", "apps.endpoint.sender", "--site", str(house.site.root))
    assert house.result_of("killed") == result
    sent = {(i.Modality, i.SOPInstanceUID) for i in house.destination.received if i.PatientID == "ID-killed"}
    assert sent == {("SEG", str(result.seg).removesuffix(".dcm")), ("SR", str(result.sr).removesuffix(".dcm"))}


def test_a_shadow_reads_and_is_not_sent_and_a_rollback_holds_from_the_next_study_on(
    house: House, protocol: Protocol
) -> None:
    first = house.champion
    assert first is not None
    second = release_champion(house.site, protocol)
    registry = registry_of(house.site)
    begin(registry, protocol.name, first.number, Stage.SHADOW)
    send(house.site, images_of("shadowed"))
    wait_until(lambda: len(results(house.store, uid("shadowed", "series"))) == 2)
    house.result_of("shadowed")
    made = {one.stage: one for one in results(house.store, uid("shadowed", "series"))}
    assert {stage: one.model for stage, one in made.items()} == {Stage.LIVE: second.name, Stage.SHADOW: first.name}
    kept = house.site.folder("results")
    assert all((kept / name).exists() for one in made.values() for name in one.files)
    assert deliveries(house.store, made[Stage.SHADOW].id) == []
    sent = {f"{i.SOPInstanceUID}.dcm" for i in house.destination.received if i.PatientID == "ID-shadowed"}
    assert sent == set(made[Stage.LIVE].files)
    end(registry, protocol.name, Stage.SHADOW)
    registry.rollback(protocol.name)
    send(house.site, images_of("rolled back"))
    back = house.result_of("rolled back")
    assert (back.model, back.stage, back.state) == (first.name, Stage.LIVE, ResultState.DONE)
    assert set(back.seconds) == {"waited", "reading", "loading", "network", "writing"}


def test_rules_decide_which_study_waits_least_and_which_is_not_read(house: House) -> None:
    rules = house.site.root / "routes.yaml"
    rules.write_text("- {name: all heads, models: [hippocampus], priority: urgent, when: {modality: MR}}\n")
    try:
        send(house.site, images_of("urgent"))
        urgent = house.result_of("urgent")
        assert (urgent.rule, urgent.priority, urgent.state) == ("all heads", 2, ResultState.DONE)
        rules.write_text("- {name: all heads, models: [], why: on holiday, when: {modality: MR}}\n")
        send(house.site, images_of("holiday"))
        holiday = house.result_of("holiday")
        reason = "all heads: takes it, and runs nothing (on holiday). Kept, not run."
        assert (holiday.state, holiday.rule, holiday.reason) == (ResultState.REFUSED, "all heads", reason)
        rules.write_text("- {name: all heads, models: [liver]}\n")
        send(house.site, images_of("mistaken"))
        mistaken = house.result_of("mistaken")
        assert mistaken.state == ResultState.FAILED
        assert mistaken.reason.startswith("routes.yaml: liver is no protocol of this site")
    finally:
        rules.unlink()


def test_a_tampered_bundle_is_not_loaded_and_the_result_says_so(house: House) -> None:
    assert house.champion is not None
    bundle = house.site.folder("bundles") / f"{house.champion.bundle_sha256}.zip"
    content = bundle.read_bytes()
    tampered = bytearray(content)
    tampered[len(content) // 2] ^= 1
    try:
        bundle.write_bytes(tampered)
        house.restart_worker()
        send(house.site, images_of("tampered"))
        result = house.result_of("tampered")
    finally:
        bundle.write_bytes(content)
    assert hashlib.sha256(tampered).hexdigest() != house.champion.bundle_sha256
    assert result.state == ResultState.FAILED
    assert "Nothing was loaded" in result.reason
    assert house.delivered("tampered") == {}


@pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")  # they are meant to be
def test_no_identifier_stands_in_a_log_or_a_result(house: House) -> None:
    """Libraries like to print a value that breaks its type's rules; a name in a UID or a date is such a value."""
    images = images_of("quiet")
    for image in images:
        image.add_new("StudyDate", "DA", "Roe was here")
    send(house.site, images)
    misplaced = images_of("misplaced")[0]
    misplaced.add_new("StudyInstanceUID", "UI", "Roe.was.here")
    assert send(house.site, [misplaced])[0] >> 12 == 0xC
    house.result_of("quiet")
    said = house.endpoint.output + house.worker.output + house.sender.output + repr(results(house.store))
    assert "Roe" not in said
    assert "ID-" not in said
