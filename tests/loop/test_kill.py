"""A worker killed with -9 in the middle of its work, and started again, finishes it: once, and with nothing lost."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from pydicom import dcmread
from pydicom.uid import generate_uid
from pynetdicom import AE
from pynetdicom.sop_class import MRImageStorage

from apps.accounts import Accounts
from apps.jobs import Job, Jobs
from apps.settings import Site
from apps.training_job import WORKFLOW as TRAIN
from apps.training_job import start_training
from labeling_protocols import schema
from labeling_protocols.label import Label
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Role
from labeling_protocols.series_writer import SeriesIdentity, write_series
from labeling_protocols.settlement import settle
from labeling_protocols.store import Store
from labeling_protocols.worklist import next_case
from tests.ports import with_free_ports
from tests.waiting import until
from training.registry import Registry
from training.request import TrainingRequest
from training.samples import phantom

CASES = 6


@pytest.fixture
def read_site(site: Site, protocol: Protocol) -> Iterator[tuple[Site, Store]]:
    """A site whose cases are read twice and settled, with a gate that lets everything pass."""
    site = with_free_ports(site, "[training]\nmax_epochs = 4\n")
    lenient = replace(protocol.gate, dice_mean_min=0, dice_min=dict.fromkeys(protocol.values, 0), missed_max=1000)
    store = Store(site.database_url, site.blobs)
    store.add_protocol(replace(protocol, gate=lenient))
    accounts = Accounts(store, site)
    readers = [accounts.add(name, "a long password", frozenset({Role.READER})) for name in ("ann", "ben")]
    labels = {}
    for number in range(CASES):
        image, label = phantom(np.random.default_rng(number))
        case, _ = store.add_case(protocol="hippocampus", patient=f"P{number}", volume=image, modality="MR")
        labels[case.id] = label
    for reader in readers:
        while case := next_case(store, "hippocampus", reader.id):  # type: ignore[assignment]
            store.save_read(case_id=case.id, reader=reader.id, label=Label.of(labels[case.id]))
            settle(store, case.id)
    yield site, store
    store.close()


@contextlib.contextmanager
def process(module: str, site: Site) -> Iterator[subprocess.Popen[bytes]]:
    log = site.folder("logs") / f"{module}.log"
    with log.open("ab") as output:
        started = subprocess.Popen(
            [sys.executable, "-m", module, "--site", str(site.root)], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def kill(started: subprocess.Popen[bytes]) -> None:
    os.kill(started.pid, signal.SIGKILL)
    started.wait()


def finished(jobs: Jobs, job_id: str) -> Job | None:
    job = jobs.find(job_id)
    assert job is not None
    assert job.state != "ERROR", job.error
    return job if job.state == "SUCCESS" else None


def store_series(site: Site, paths: list[Path]) -> None:
    entity = AE("SCANNER")
    entity.add_requested_context(MRImageStorage)
    config = site.config.dicom
    association = entity.associate(config.host, config.port, ae_title=config.ae_title)
    assert association.is_established
    assert [association.send_c_store(path).Status for path in paths] == [0] * len(paths)
    association.release()


@pytest.mark.slow
def test_a_worker_killed_in_training_and_in_inference_finishes_both(
    read_site: tuple[Site, Store], tmp_path: Path
) -> None:
    site, store = read_site
    jobs = Jobs(site)

    job_id = start_training(jobs, TrainingRequest(protocol="hippocampus"), requested_by="test")
    with process("apps.worker", site) as worker:
        until(lambda: (jobs.progress(job_id) or {}).get("epoch", 0) >= 2, "the second epoch")
        kill(worker)
    assert [job.id for job in jobs.active(TRAIN)] == [job_id]
    with process("apps.worker", site):
        until(lambda: finished(jobs, job_id), "the training to finish")
    registry = Registry(site.tracking_uri, site.folder("bundles"), site.public_key)
    (version,) = registry.versions("hippocampus")
    assert registry.champion("hippocampus") == version

    image, _ = phantom(np.random.default_rng(99))
    identity = SeriesIdentity(
        patient_id="X1",
        patient_name="X^Y",
        study_uid=generate_uid(prefix=None),
        series_uid=generate_uid(prefix=None),
        frame_of_reference_uid=generate_uid(prefix=None),
    )
    with process("apps.endpoint", site) as endpoint:
        until(lambda: answers_echo(site), "the endpoint")
        store_series(site, write_series(image, tmp_path / "series", identity))
        until(lambda: jobs.active("infer_series"), "the inference job")
        kill(endpoint)
    (job,) = jobs.active("infer_series")
    with process("apps.worker", site) as worker:
        until(lambda: running(jobs, job.id), "the inference to begin")
        kill(worker)
    with process("apps.worker", site):
        until(lambda: finished(jobs, job.id), "the inference to finish")
    with store.engine.connect() as connection:
        (result,) = connection.execute(sa.select(schema.results)).all()
    assert (result.series, result.model) == (identity.series_uid, version.name)
    written = [dcmread(path) for path in sorted((site.root / "results").rglob("*.dcm"))]
    assert sorted(dataset.Modality for dataset in written) == ["SEG", "SR"]
    assert {dataset.StudyInstanceUID for dataset in written} == {identity.study_uid}
    jobs.close()


def running(jobs: Jobs, job_id: str) -> bool:
    job = jobs.find(job_id)
    assert job is not None
    assert job.active, f"it ended as {job.state} before it could be killed"
    return job.state == "PENDING"


def answers_echo(site: Site) -> bool:
    entity = AE("SCANNER")
    entity.add_requested_context("1.2.840.10008.1.1")
    config = site.config.dicom
    association = entity.associate(config.host, config.port, ae_title=config.ae_title)
    if not association.is_established:
        return False
    status = association.send_c_echo()
    association.release()
    return bool(status) and status.Status == 0
