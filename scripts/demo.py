"""The whole loop, headless, through the server's own interfaces; a folder of labelled volumes in, `report.json` out.

The readers and the adjudicator are SIMULATED: they perturb the folder's reference labels, and the adjudicator prefers
the read that lies nearer to the reference. Everything between them is the real system: `overread` commands, HTTP with
monailabel's own client, DIMSE, against servers started on free ports.
"""

import argparse
import contextlib
import hashlib
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from apps import compat  # noqa: E402  first: it mends monailabel before anything imports it

compat.mend()

import highdicom as hd  # noqa: E402
import numpy as np  # noqa: E402
import requests  # noqa: E402
from monailabel.client.client import MONAILabelClient  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from pydicom import Dataset, dcmread  # noqa: E402
from pydicom.uid import generate_uid  # noqa: E402
from pynetdicom import AE, evt  # noqa: E402
from pynetdicom.sop_class import Comprehensive3DSRStorage, EnhancedSRStorage, MRImageStorage, SegmentationStorage  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: E402
from rich.table import Table  # noqa: E402
from scipy import ndimage  # noqa: E402

from apps.serve import serving  # noqa: E402
from apps.settings import Site  # noqa: E402
from labeling_protocols.agreement import dice, hd95_mm  # noqa: E402
from labeling_protocols.dicom_seg import label_from_seg  # noqa: E402
from labeling_protocols.dicom_sr import volumes_from_sr  # noqa: E402
from labeling_protocols.geometry import Volume  # noqa: E402
from labeling_protocols.protocol import SHIPPED, Protocol, load_protocol  # noqa: E402
from labeling_protocols.series_writer import SeriesIdentity, write_series  # noqa: E402
from labeling_protocols.volumes import read_volume, write_volume  # noqa: E402
from tests.ports import free_ports  # noqa: E402
from training.registry import Registry  # noqa: E402
from training.samples import sample_volumes  # noqa: E402

PROTOCOL = "hippocampus"
READERS = ("reader1", "reader2")
UNSEEN_MOST = 20  # cases scored after training that no read was made for
ENDPOINT_LIMIT_S = 300.0
TRAINING_LIMIT_S = 3 * 3600.0
POLL_S = 0.5

console = Console()


class DemoError(RuntimeError):
    """The loop could not go on: which stage, and what was found."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One volume of the folder and its reference label."""

    image: Path
    label: Path


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with images/*.nii.gz and labels/*.nii.gz of equal names")
    parser.add_argument("--cases", type=int, default=60, help="how many volumes are ingested (default 60)")
    parser.add_argument("--out", type=Path, required=True, help="where report.json and the site are put")
    parser.add_argument("--seed", type=int, default=0, help="of the order of cases and of the simulated readers")
    parser.add_argument("--max-epochs", type=int, help="train no longer than this (for a quick look)")
    arguments = parser.parse_args()
    try:
        Demo(arguments).run()
    except DemoError as error:
        console.print(f"[bold red]demo:[/] {error}", highlight=False)
        return 1
    return 0


class Demo:
    """One run of the loop; `report` grows stage by stage and is written at the end, and where a stage fails."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.out: Path = arguments.out
        self.data: Path | None = arguments.data
        self.cases: int = arguments.cases
        self.seed: int = arguments.seed
        self.max_epochs: int | None = arguments.max_epochs
        self.protocol: Protocol = load_protocol(SHIPPED / f"{PROTOCOL}.yaml")
        self.report: dict[str, Any] = {"seconds": {}}

    def run(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        console.rule("Overread, the whole loop")
        console.print("Readers and adjudicator are simulated: they perturb the reference labels. The rest is real.")
        destination = Destination()
        try:
            self.run_stages(destination)
        finally:
            destination.stop()
            (self.out / "report.json").write_text(json.dumps(self.report, indent=2) + "\n")
        self.show()

    def run_stages(self, destination: "Destination") -> None:
        with self.stage("data"):
            reading, unseen = self.volumes()
        with self.stage("site"):
            site, passwords = self.make_site(destination)
        with self.stage("serve"):
            services = contextlib.ExitStack()
            services.enter_context(serving(site, lambda words: console.print(words)))
        with services:
            self.server = f"http://{site.config.web.host}:{site.config.web.port}"
            with self.stage("ingest"):
                self.ingest(site, reading)
            with self.stage("read"):
                self.read(reading, passwords, limit=len(reading) if unseen else len(reading) - self.held_back)
            with self.stage("adjudicate"):
                self.adjudicate(reading, passwords)
            with self.stage("train"):
                self.train(site, passwords)
            if not self.report["gate"]["passed"]:
                raise DemoError(f"the gate refused the candidate: {'; '.join(self.report['gate']['reasons'])}")
            unseen = unseen or self.unread(reading)
            with self.stage("score"):
                self.score(unseen, passwords)
            with self.stage("endpoint"):
                self.endpoint(site, unseen[0], destination)
            with self.stage("second version"):
                self.train_again(site)
            with self.stage("shadow, live, rollback"):
                self.release(site, unseen[0], destination)

    # Stages

    def volumes(self) -> tuple[list[Pair], list[Pair]]:
        """The volumes to ingest, and others to score on (none where the folder holds no more than were asked for)."""
        folder = self.data
        if folder is None:
            folder = self.out / "data"
            if not (folder / "images").is_dir():
                self.report["data"] = sample_volumes(folder, self.cases + UNSEEN_MOST, seed=self.seed)
        self.report.setdefault("data", "the folder given by --data")
        pairs = [
            Pair(image=image, label=folder / "labels" / image.name)
            for image in sorted((folder / "images").glob("*.nii.gz"))
            if (folder / "labels" / image.name).is_file()
        ]
        if len(pairs) < self.cases:
            raise DemoError(f"--data: expected at least {self.cases} images with a label, found {len(pairs)}")
        random.Random(self.seed).shuffle(pairs)
        self.held_back = max(2, self.cases // 6)
        others = pairs[self.cases : self.cases + UNSEEN_MOST]
        return pairs[: self.cases], others if len(others) >= self.held_back else []

    def make_site(self, destination: "Destination") -> tuple[Site, dict[str, str]]:
        root = self.out / "site"
        shutil.rmtree(root, ignore_errors=True)
        overread("init", root)
        web, mlflow, dicom = free_ports(3)
        epochs = f"\nmax_epochs = {self.max_epochs}" if self.max_epochs else ""
        (root / "config.toml").write_text(
            f"[web]\nport = {web}\n[mlflow]\nport = {mlflow}\n"
            f'[dicom]\nport = {dicom}\nprotocol = "{PROTOCOL}"\nquiet_seconds = 2.0\n'
            f'[[dicom.destinations]]\nae_title = "DEMO_PACS"\nhost = "127.0.0.1"\nport = {destination.port}\n'
            f'[training]\ndevice = "auto"{epochs}\n'
        )
        passwords = {}
        for name, role in (
            (READERS[0], "reader"),
            (READERS[1], "reader"),
            ("adjudicator", "adjudicator"),
            ("engineer", "engineer"),
        ):
            passwords[name] = f"{name}-{random.SystemRandom().getrandbits(64):x}"
            overread("account", "add", name, "--role", role, "--password", passwords[name], "--site", root)
        return Site(root), passwords

    def ingest(self, site: Site, pairs: list[Pair]) -> None:
        with tempfile.TemporaryDirectory(dir=self.out) as folder:
            for pair in pairs:
                (Path(folder) / pair.image.name).symlink_to(pair.image.resolve())
            said = overread("ingest", folder, "--protocol", PROTOCOL, "--site", site.root)
        self.report["ingest"] = next(line for line in said.splitlines() if "added" in line).strip()
        self.report["cases"] = int(re.search(r"(\d+) case\(s\) added", said)[1])  # type: ignore[index]

    def read(self, pairs: list[Pair], passwords: dict[str, str], limit: int) -> None:
        """Both readers at once, each with monailabel's own client, until they have read `limit` cases."""
        references = {fingerprint(read_volume(pair.image).array_ZYX): pair for pair in pairs}
        self.read_pairs: set[Path] = set()
        with bars() as bar, ThreadPoolExecutor(len(READERS)) as pool:
            tasks = {name: bar.add_task(name, total=limit) for name in READERS}
            futures = [
                pool.submit(
                    self.read_as, name, passwords[name], references, limit, lambda name=name: bar.advance(tasks[name])
                )
                for name in READERS
            ]
            self.report["reads"] = sum(future.result() for future in futures)

    def read_as(
        self, name: str, password: str, references: dict[str, Pair], limit: int, step: Callable[[], None]
    ) -> int:
        noise = np.random.default_rng([self.seed, *name.encode()])
        client = self.client(name, password)
        if name == READERS[0]:
            self.expect_no_model_yet(client)
        with tempfile.TemporaryDirectory() as folder:
            for number in range(limit):
                sample = client.next_sample("worklist", {})
                if not sample.get("id"):
                    return number
                image = self.download_image(client, sample["id"], Path(folder))
                pair = references[fingerprint(image.array_ZYX)]
                self.read_pairs.add(pair.image)
                reference = read_volume(pair.label)
                outlined = perturbed(self.protocol, reference.array_ZYX, noise)
                path = Path(folder) / "label.nrrd"
                write_volume(Volume(array_ZYX=outlined, geometry=image.geometry), path)
                info = [{"name": name, "idx": value} for name, value in self.protocol.values.items()]
                client.save_label(sample["id"], str(path), params={"label_info": info})
                step()
        return limit

    def expect_no_model_yet(self, client: MONAILabelClient) -> None:
        """Before there is a champion, inference must refuse in words."""
        sample = client.next_sample("worklist", {})
        try:
            client.infer(PROTOCOL, sample["id"], {})
        except Exception as error:  # noqa: BLE001  monailabel's client raises its own bare exceptions
            self.report["infer_before_training"] = f"refused: {error}"
        else:
            raise DemoError("read: infer answered before any model was trained")

    def adjudicate(self, pairs: list[Pair], passwords: dict[str, str]) -> None:
        """Each dispute over HTTP: look at the image and both reads, take the read nearer to the reference."""
        session = self.session("adjudicator", passwords["adjudicator"])
        references = {fingerprint(read_volume(pair.image).array_ZYX): pair for pair in pairs}
        listed = self.answer(session.get(f"{self.server}/review/api/disputes", params={"protocol": PROTOCOL}))
        disputes = listed["disputes"]
        with bars() as bar:
            for dispute in bar.track(disputes, description="disputes"):
                self.settle(session, dispute["case"], references, passwords["adjudicator"])
        self.report["disputes"] = len(disputes)
        self.report["adjudications"] = len(disputes)
        left = self.answer(session.get(f"{self.server}/review/api/disputes", params={"protocol": PROTOCOL}))
        if left["disputes"]:
            raise DemoError(f"adjudicate: {len(left['disputes'])} disputes are still open")

    def settle(self, session: requests.Session, case: str, references: dict[str, Pair], password: str) -> None:
        detail = self.answer(session.get(f"{self.server}/review/api/disputes/{case}"))
        image = self.fetch_volume(session, detail["image"])
        reference = read_volume(references[fingerprint(image.array_ZYX)].label).array_ZYX
        scores = {
            read["letter"]: self.mean_dice(self.fetch_volume(session, read["label"]).array_ZYX, reference)
            for read in detail["reads"]
        }
        choice = max(scores, key=lambda letter: scores[letter])
        rationale = "Simulated adjudicator: this outline follows the reference more closely."
        body = {"choice": choice, "rationale": rationale, "password": password}
        self.answer(session.post(f"{self.server}/review/api/disputes/{case}", json=body))

    def train(self, site: Site, passwords: dict[str, str]) -> None:
        """Start training with the client and follow it until its job ends."""
        client = self.client("engineer", passwords["engineer"])
        client.train_start(PROTOCOL, {})
        deadline = time.monotonic() + TRAINING_LIMIT_S
        with bars() as bar:
            task = bar.add_task("training", total=None)
            while client.train_status(check_if_running=True):
                said = self.answer(requests.get(f"{self.server}/train/", headers=client._headers, timeout=30))
                progress = said.get("progress") or {}
                bar.update(task, description=f"training: {progress.get('stage', 'waiting')}")
                if "epoch" in progress:
                    bar.update(task, completed=progress["epoch"], total=progress["epochs"])
                if time.monotonic() > deadline:
                    raise DemoError("train: the job did not end in time")
                time.sleep(POLL_S)
        said = self.answer(requests.get(f"{self.server}/train/", headers=client._headers, timeout=30))
        registry = Registry(site.tracking_uri, site.folder("bundles"), site.public_key)
        versions = registry.versions(PROTOCOL)
        if not versions:
            raise DemoError(f"train: the job registered no model version: {said}")
        self.model = versions[-1]
        self.report.update(
            {
                "truths": self.count_truths(passwords),
                "snapshot": self.model.snapshot,
                "mlflow_run_id": self.model.run_id,
                "model_version": self.model.name,
                "bundle": f"site/bundles/{self.model.bundle_sha256}.zip",
                "gate": {"passed": self.model.gate_passed, "reasons": said.get("reasons", [])},
            }
        )

    def count_truths(self, passwords: dict[str, str]) -> int:
        session = self.session("adjudicator", passwords["adjudicator"])
        counts = self.answer(session.get(f"{self.server}/review/api/progress", params={"protocol": PROTOCOL}))
        return int(counts["truths"])

    def unread(self, pairs: list[Pair]) -> list[Pair]:
        return [pair for pair in pairs if pair.image not in self.read_pairs][:UNSEEN_MOST]

    def score(self, unseen: list[Pair], passwords: dict[str, str]) -> None:
        """Dice of the served champion on cases no read was made for, sent as a viewer sends an image of its own."""
        client = self.client(READERS[0], passwords[READERS[0]])
        scores: dict[str, list[float]] = {name: [] for name in self.protocol.values}
        distances: dict[str, list[float | None]] = {name: [] for name in self.protocol.values}
        with bars() as bar:
            for pair in bar.track(unseen, description="unseen cases"):
                session_id = client.create_session(str(pair.image))["session_id"]
                result, _ = client.infer(PROTOCOL, "", {"result_extension": ".nrrd"}, session_id=session_id)
                predicted = read_volume(Path(result))
                client.remove_session(session_id)
                Path(result).unlink()
                reference = read_volume(pair.label)
                if difference := reference.geometry.difference(predicted.geometry):
                    raise DemoError(f"score: an inferred label does not lie on its image: {difference}")
                for name, value in self.protocol.values.items():
                    masks = (predicted.array_ZYX == value, reference.array_ZYX == value)
                    scores[name].append(dice(*masks))
                    distances[name].append(hd95_mm(*masks, reference.geometry.spacing_mm_ZYX))
        by_structure = {name: float(np.mean(values)) for name, values in scores.items()}
        self.report["dice"] = {**by_structure, "mean": float(np.mean(list(by_structure.values()))), "n": len(unseen)}
        self.report["hd95_mm_median"] = {
            name: float(np.median([value for value in values if value is not None]))
            for name, values in distances.items()
        }
        self.report["missed"] = sum(value is None for values in distances.values() for value in values)

    def endpoint(self, site: Site, pair: Pair, destination: "Destination") -> None:
        """One unseen case as two DICOM series, shuffled, one with its slices the other way round: a SEG and SR each."""
        reference = read_volume(pair.label)
        self.report["seg_dice_in_patient_coordinates"] = {}
        for order, flipped in (("flipped", True), ("shuffled", False)):
            started = time.monotonic()
            identity, paths = self.send_study(site, pair, order, flipped=flipped)
            seg, sr = destination.wait_for(identity.study_uid, ENDPOINT_LIMIT_S)
            self.report["endpoint_seconds"] = round(time.monotonic() - started, 2)
            self.keep_result("seg", seg)
            self.keep_result("sr", sr)
            self.check_references(seg, identity, paths)
            found = label_from_seg(hd.seg.segread(self.out / "seg.dcm"), self.protocol, reference.geometry)
            self.report["seg_dice_in_patient_coordinates"][order] = {
                **{
                    name: dice(found.array_ZYX == value, reference.array_ZYX == value)
                    for name, value in self.protocol.values.items()
                },
                "mean": self.mean_dice(found.array_ZYX, reference.array_ZYX),
            }
            self.report["sr_volumes_ml"] = volumes_from_sr(sr)

    def send_study(
        self, site: Site, pair: Pair, name: str, *, flipped: bool = False
    ) -> tuple[SeriesIdentity, list[Path]]:
        """A new study of this case, sent to the endpoint."""
        folder = self.out / f"series_{name}"
        shutil.rmtree(folder, ignore_errors=True)
        identity = SeriesIdentity(
            patient_id="DEMO-1",
            patient_name="Demo^Patient",
            study_uid=generate_uid(prefix=None),
            series_uid=generate_uid(prefix=None),
            frame_of_reference_uid=generate_uid(prefix=None),
        )
        paths = write_series(read_volume(pair.image), folder, identity, flipped=flipped, shuffle=self.seed)
        send(paths, site)
        return identity, paths

    def train_again(self, site: Site) -> None:
        """A second version, from the champion's weights on; its gate compares it with the champion."""
        said = overread("train", PROTOCOL, "--from-champion", "--set", "epochs=2", "--site", site.root)
        registry = Registry(site.tracking_uri, site.folder("bundles"), site.public_key)
        self.second = registry.versions(PROTOCOL)[-1]
        if self.second.number == self.model.number:
            raise DemoError(f"second version: none was registered: {said}")
        self.report["second_version"] = {"model_version": self.second.name, "passed": self.second.gate_passed}
        if self.second.gate_passed:  # it became champion; it is to begin as a shadow
            overread("rollback", PROTOCOL, "--site", site.root)

    def release(self, site: Site, pair: Pair, destination: "Destination") -> None:
        """The second version as a shadow, then live, then taken back; a study after each, read by whom it should be."""
        first, second, at = self.model.name, self.second.name, ("--site", site.root)
        overread("promote", PROTOCOL, self.second.number, "--stage", "shadow", *at)
        self.report["stages"] = {"shadow": self.readers_of(site, pair, "shadow", destination)}
        expected = {"shadow": {"live": first, "shadow": second}}
        if self.second.gate_passed:
            overread("promote", PROTOCOL, self.second.number, *at)
            self.report["stages"]["live"] = self.readers_of(site, pair, "live", destination)
            overread("rollback", PROTOCOL, *at)
            self.report["stages"]["rolled back"] = self.readers_of(site, pair, "rolled_back", destination)
            expected |= {"live": {"live": second}, "rolled back": {"live": first}}
        if self.report["stages"] != expected:
            raise DemoError(f"release: studies were read by {self.report['stages']}, expected {expected}")

    def readers_of(self, site: Site, pair: Pair, name: str, destination: "Destination") -> dict[str, str]:
        """Which version read a new study in which stage; what came of the one that is sent must have arrived."""
        identity, _ = self.send_study(site, pair, name)
        seg, _ = destination.wait_for(identity.study_uid, ENDPOINT_LIMIT_S)
        deadline = time.monotonic() + ENDPOINT_LIMIT_S
        wanted = 2 if name == "shadow" else 1
        while len(told := json.loads(overread("trace", identity.study_uid, "--json", "--site", site.root))) < wanted:
            if time.monotonic() > deadline:
                raise DemoError(f"release: {wanted} results were expected of a study, {len(told)} came")
            time.sleep(POLL_S)
        if seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion not in {
            one["result"]["model"].rpartition(" ")[2] for one in told if one["result"]["stage"] == "live"
        }:
            raise DemoError("release: the SEG that arrived is of another model version than the live one")
        self.report["trace"] = overread("trace", seg.SOPInstanceUID, "--site", site.root)
        return {one["result"]["stage"]: one["result"]["model"] for one in told}

    def keep_result(self, name: str, dataset: Dataset) -> None:
        dataset.save_as(self.out / f"{name}.dcm", enforce_file_format=True)
        self.report[name] = f"{name}.dcm"

    def check_references(self, seg: Dataset, identity: SeriesIdentity, paths: list[Path]) -> None:
        sent = {dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in paths}
        series = seg.ReferencedSeriesSequence[0]
        named = {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence}
        if (seg.StudyInstanceUID, series.SeriesInstanceUID) != (
            identity.study_uid,
            identity.series_uid,
        ) or named != sent:
            raise DemoError("endpoint: the SEG does not refer to the series that was sent")

    # What the stages share

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        console.print(f"[bold]{name}[/] …")
        started = time.monotonic()
        try:
            yield
        except (requests.RequestException, subprocess.CalledProcessError, OSError) as error:
            raise DemoError(f"{name}: {error}") from error
        finally:
            self.report["seconds"][name] = round(time.monotonic() - started, 2)

    def client(self, name: str, password: str) -> MONAILabelClient:
        client = MONAILabelClient(self.server)
        client.update_auth(client.auth_token(name, password))
        return client

    def session(self, name: str, password: str) -> requests.Session:
        session = requests.Session()
        token = MONAILabelClient(self.server).auth_token(name, password)["access_token"]
        session.headers["Authorization"] = f"Bearer {token}"
        return session

    def answer(self, response: requests.Response) -> Any:
        if response.status_code >= 400:
            raise DemoError(f"{response.request.method} {response.url}: {response.status_code} {response.text[:500]}")
        return response.json()

    def download_image(self, client: MONAILabelClient, case: str, folder: Path) -> Volume:
        """As 3D Slicer does: the client has no call for it."""
        response = requests.get(
            f"{self.server}/datastore/image", params={"image": case}, headers=client._headers, timeout=60
        )
        response.raise_for_status()
        path = folder / "image.nii.gz"
        path.write_bytes(response.content)
        return read_volume(path)

    def fetch_volume(self, session: requests.Session, address: str) -> Volume:
        response = session.get(f"{self.server}{address}", timeout=60)
        response.raise_for_status()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "volume.nii.gz"
            path.write_bytes(response.content)
            return read_volume(path)

    def mean_dice(self, label: NDArray[np.generic], reference: NDArray[np.generic]) -> float:
        return float(np.mean([dice(label == value, reference == value) for value in self.protocol.values.values()]))

    def show(self) -> None:
        table = Table("What", "Figure", title="Overread, the whole loop")
        scores = self.report["dice"]
        for what, figure in (
            ("Data", self.report["data"]),
            ("Cases, reads", f"{self.report['cases']}, {self.report['reads']} (simulated readers)"),
            ("Disputes, adjudications", f"{self.report['disputes']}, {self.report['adjudications']}"),
            ("Truths", str(self.report["truths"])),
            ("Model version", self.report["model_version"]),
            ("Gate", "passed" if self.report["gate"]["passed"] else "; ".join(self.report["gate"]["reasons"])),
            (
                f"Dice on {scores['n']} unseen cases",
                f"mean {scores['mean']:.3f} ("
                + ", ".join(f"{name} {scores[name]:.3f}" for name in self.protocol.values)
                + f"), {self.report['missed']} missed",
            ),
            (
                "SEG Dice in patient coordinates",
                ", ".join(
                    f"{order} {found['mean']:.3f}"
                    for order, found in self.report["seg_dice_in_patient_coordinates"].items()
                ),
            ),
            (
                "Read by",
                "; ".join(
                    f"{stage}: " + ", ".join(f"{how} {model}" for how, model in readers.items())
                    for stage, readers in self.report["stages"].items()
                ),
            ),
            ("SR volumes", ", ".join(f"{k} {v:.2f} ml" for k, v in self.report["sr_volumes_ml"].items())),
            ("Seconds", ", ".join(f"{name} {value:.0f}" for name, value in self.report["seconds"].items())),
            ("Report", str(self.out / "report.json")),
        ):
            table.add_row(what, figure)
        console.print(table)
        console.print(f"The chain behind the last result:\n{self.report['trace']}", highlight=False)


class Destination:
    """A DICOM peer that keeps the results it is sent."""

    def __init__(self) -> None:
        self._arrived = threading.Condition()
        self._datasets: list[Dataset] = []
        ae = AE("DEMO_PACS")
        for context in (SegmentationStorage, Comprehensive3DSRStorage, EnhancedSRStorage):
            ae.add_supported_context(context)
        ae.add_supported_context("1.2.840.10008.1.1")
        self._server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self._keep)])
        self.port: int = self._server.server_address[1]

    def stop(self) -> None:
        self._server.shutdown()

    def wait_for(self, study_uid: str, limit_s: float) -> tuple[Dataset, Dataset]:
        """The SEG and the SR of a study."""

        def both() -> tuple[Dataset, Dataset] | None:
            mine = {d.Modality: d for d in self._datasets if d.StudyInstanceUID == study_uid}
            return (mine["SEG"], mine["SR"]) if {"SEG", "SR"} <= set(mine) else None

        with self._arrived:
            if not self._arrived.wait_for(lambda: both() is not None, timeout=limit_s):
                raise DemoError(f"endpoint: no SEG and SR came within {limit_s:.0f} s")
            found = both()
        assert found is not None
        return found

    def _keep(self, event: evt.Event) -> int:
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        with self._arrived:
            self._datasets.append(dataset)
            self._arrived.notify_all()
        return 0x0000


def send(paths: list[Path], site: Site) -> None:
    ae = AE("DEMO_SCANNER")
    ae.add_requested_context(MRImageStorage)
    association = ae.associate(site.config.dicom.host, site.config.dicom.port, ae_title=site.config.dicom.ae_title)
    if not association.is_established:
        raise DemoError("endpoint: it accepted no association")
    for path in paths:
        status = association.send_c_store(path)
        if not status or status.Status != 0x0000:
            raise DemoError(f"endpoint: a slice was refused with status {status.Status if status else 'none':#06x}")
    association.release()


def perturbed(protocol: Protocol, reference: NDArray[np.generic], noise: np.random.Generator) -> NDArray[np.uint8]:
    """A simulated reader's outline: boundaries moved smoothly by about half a voxel, now and then a gross slip."""
    shift = [ndimage.gaussian_filter(noise.normal(size=reference.shape), 4) for _ in range(3)]
    scale = [0.6 * field / (field.std() + 1e-9) for field in shift]
    grid = np.meshgrid(*(np.arange(n) for n in reference.shape), indexing="ij")
    slip = np.zeros(3)
    if noise.random() < 0.12:
        slip = noise.normal(0, 2.0, 3)
    where = [axis + field + offset for axis, field, offset in zip(grid, scale, slip, strict=True)]
    moved = ndimage.map_coordinates(reference.astype(np.uint8), where, order=0, mode="nearest")
    outlined: NDArray[np.uint8] = moved.astype(np.uint8)
    return outlined if set(protocol.values.values()) <= set(np.unique(outlined)) else reference.astype(np.uint8)


def fingerprint(array_ZYX: NDArray[np.generic]) -> str:
    """What tells two images apart, whatever their number type."""
    return hashlib.sha256(np.ascontiguousarray(array_ZYX, dtype=np.float64).tobytes()).hexdigest()


def overread(*words: object) -> str:
    """Run an `overread` command; what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "apps.command", *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise DemoError(
            f"overread {' '.join(map(str, words[:2]))} ended with code {done.returncode}: {done.stdout}{done.stderr}"
        )
    return done.stdout


def bars() -> Progress:
    return Progress(
        SpinnerColumn(), TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=console,
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
