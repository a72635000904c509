"""A worklist prelabelled by a durable job: started by command and by client, paused, killed, and never done twice."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from monailabel.client.client import MONAILabelUtils
from sqlalchemy import select
from typer.testing import CliRunner

from apps import prelabel_job
from apps.command import app
from apps.jobs import Job, Jobs
from apps.prelabel_job import PrelabellingError, PrelabelRequest, Which, start_prelabelling
from labeling_protocols import schema
from labeling_protocols.audit import Action
from labeling_protocols.geometry import Volume
from labeling_protocols.label import Label
from labeling_protocols.prelabelling import unproposed
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Account, Case, Role
from labeling_protocols.store import Store
from labeling_protocols.worklist import order, reassign
from tests.annotation.served import Served, serving
from tests.conftest import OBLIQUE, label_of
from tests.endpoint.champion import release_champion
from tests.endpoint.peers import Process, wait_until


@pytest.fixture(scope="module")
def prelabelled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("prelabelled") / "site") as server:
        yield server


@pytest.fixture(scope="module")
def jobs(prelabelled: Served) -> Iterator[Jobs]:
    opened = Jobs(prelabelled.site)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def worker(prelabelled: Served) -> Iterator[Process]:
    """One worker for the tests that need one, which come last; the last of them kills it."""
    process = Process("-m", "apps.worker", "--site", str(prelabelled.site.root))
    yield process
    process.kill()


def image_cut_at(number: int) -> Volume:
    """An image on which the champion draws one voxel of each structure, at places that differ from case to case."""
    array_ZYX = np.zeros(OBLIQUE.shape_ZYX, np.int16)
    array_ZYX.ravel()[number], array_ZYX.ravel()[-1 - number] = 500, 900
    return Volume(array_ZYX=array_ZYX, geometry=OBLIQUE)


def with_cases(served: Served, count: int, *, first: int = 0) -> tuple[Protocol, list[Case], str]:
    """A protocol with a champion and so many cases, of images numbered from `first`; the champion's name."""
    protocol = served.protocol()
    cases = [
        served.store.add_case(protocol=protocol.name, patient=f"P{number}", volume=image_cut_at(number), modality="MR")[
            0
        ]
        for number in range(first, first + count)
    ]
    return protocol, cases, release_champion(served.site, protocol).name


def ask(served: Served, account: Account, method: str, selector: str, body: Any = None) -> tuple[int, Any]:
    """A request as monailabel's client makes each of its own."""
    client = served.client(account)
    status, answer, *_ = MONAILabelUtils.http_method(
        method, client.get_server_url(), selector, body, headers=dict(client._headers)
    )
    return status, json.loads(answer)


def kept(store: Store, cases: list[Case]) -> Counter[str]:
    """How often the chain says that a prelabel of each of these cases was kept."""
    table = schema.audit
    query = select(table.c.subject).where(table.c.action == Action.PRELABEL_KEPT)
    with store.engine.connect() as connection:
        subjects = connection.execute(query).scalars().all()
    return Counter(subject for subject in subjects if subject in {case.id for case in cases})


def found(jobs: Jobs, job_id: str) -> Job:
    job = jobs.find(job_id)
    assert job is not None
    return job


def done(jobs: Jobs, job_id: str) -> int:
    return int(prelabel_job.outcome_of(jobs, found(jobs, job_id)).get("done", 0))


def test_the_next_cases_to_be_read_come_first_and_only_those_without_this_models_prelabel(
    store: Store, readers: tuple[Account, Account], protocol: Protocol
) -> None:
    cases = [
        store.add_case(protocol=protocol.name, patient=f"P{n}", volume=image_cut_at(n), modality="MR")[0]
        for n in range(4)
    ]
    order(store, protocol.name, {case.id: float(n) for n, case in enumerate(cases)}, actor="tests")
    label = Label.of(label_of())
    store.save_prelabel(cases[1].id, "model 1.0.1", label)
    store.save_prelabel(cases[0].id, "model 1.0.0", label)
    for reader in readers:
        reassign(store, cases[3].id, from_reader=None, to_reader=reader.id, actor="tests")
        store.save_read(case_id=cases[3].id, reader=reader.id, label=label)
    every = unproposed(store, protocol.name, "model 1.0.1", open_only=False)
    assert (every.cases, every.known) == ((cases[3].id, cases[2].id, cases[0].id), 1)
    waiting = unproposed(store, protocol.name, "model 1.0.1", open_only=True, limit=1)
    assert (waiting.cases, waiting.known) == ((cases[2].id,), 1)


def test_a_request_that_cannot_be_is_refused_with_its_reason(prelabelled: Served) -> None:
    with pytest.raises(PrelabellingError, match="limit: Input should be greater than or equal to 1"):
        PrelabelRequest.from_json('{"protocol":"hippocampus","limit":0}')
    told = CliRunner().invoke(app, ["prelabel", "hippocampus", "--site", str(prelabelled.site.root)])
    assert "no model of protocol hippocampus has passed the gate yet" in str(told.exception)


def test_a_batch_is_for_engineers_and_refused_in_words_where_it_cannot_be(prelabelled: Served) -> None:
    protocol = prelabelled.protocol()
    engineer = prelabelled.account(Role.ENGINEER)
    session = prelabelled.session(engineer)
    for selector, status, words in (
        ("/batch/infer/nothing", 404, "unknown model"),
        (f"/batch/infer/{protocol.name}", 409, "has passed the gate"),
        (f"/batch/infer/{protocol.name}?images=labeled", 422, "before they are read"),
        (f"/batch/infer/{protocol.name}?run_sync=true", 422, "not waited for"),
        (f"/batch/infer/{protocol.name}?images=some", 422, "images"),
    ):
        answer = session.post(f"{prelabelled.url}{selector}")
        assert (answer.status_code, words in answer.json()["detail"]) == (status, True), answer.text
    release_champion(prelabelled.site, protocol)
    answer = session.post(f"{prelabelled.url}/batch/infer/{protocol.name}", json={"max_batch_size": "all"})
    assert (answer.status_code, "max_batch_size" in answer.json()["detail"]) == (422, True), answer.text
    reader = prelabelled.session(prelabelled.account())
    for method, path in (
        ("POST", f"/batch/infer/{protocol.name}"),
        ("GET", "/batch/infer"),
        ("DELETE", "/batch/infer"),
    ):
        assert reader.request(method, f"{prelabelled.url}{path}").status_code == 403


def test_a_batch_that_waits_is_cancelled_by_the_client(prelabelled: Served, jobs: Jobs) -> None:
    protocol, cases, _ = with_cases(prelabelled, 1)
    engineer = prelabelled.account(Role.ENGINEER)
    _, task = ask(prelabelled, engineer, "POST", f"/batch/infer/{protocol.name}", {})
    assert (task["status"], task["details"]) == ("RUNNING", ["waiting"])
    status, stopped = ask(prelabelled, engineer, "DELETE", "/batch/infer/")
    assert (status, stopped["id"], stopped["status"]) == (200, task["id"], "STOPPED")
    assert prelabelled.session(engineer).delete(f"{prelabelled.url}/batch/infer").json() is None
    with pytest.raises(PrelabellingError, match="not paused: it is cancelled"):
        prelabel_job.resume(jobs, task["id"])
    assert kept(prelabelled.store, cases) == Counter()


def test_a_job_that_waits_is_paused_resumed_and_cancelled_by_command(prelabelled: Served, jobs: Jobs) -> None:
    protocol, _, _ = with_cases(prelabelled, 1)
    job_id = start_prelabelling(jobs, PrelabelRequest(protocol=protocol.name, cases=Which.ALL), "somebody")
    site = ["--site", str(prelabelled.site.root)]

    def run(*arguments: str) -> str:
        told = CliRunner().invoke(app, ["prelabel", *arguments, *site])
        return told.output + str(told.exception or "")

    assert "Go on with: overread prelabel --resume" in run("--pause", job_id)
    assert "it is paused. Nothing was changed" in run("--pause", job_id)
    prelabel_job.resume(jobs, job_id)
    assert found(jobs, job_id).state == "ENQUEUED"
    run("--pause", job_id)
    assert "what it proposed is kept" in run("--cancel", job_id)
    assert "it is cancelled. Nothing was changed" in run("--cancel", job_id)
    assert "no such prelabelling" in run("--pause", "train-hippocampus-0")
    assert "expected a protocol, or one of" in run(protocol.name, "--list")


def test_monailabels_client_starts_watches_and_repeats_a_batch(
    prelabelled: Served, jobs: Jobs, worker: Process
) -> None:
    protocol, cases, model = with_cases(prelabelled, 4)
    engineer = prelabelled.account(Role.ENGINEER)
    selector = f"/batch/infer/{protocol.name}"
    status, task = ask(prelabelled, engineer, "POST", f"{selector}?images=unlabeled", {"max_batch_size": 3})
    assert (status, task["request"]) == (200, {"model": protocol.name})
    wait_until(lambda: ask(prelabelled, engineer, "GET", "/batch/infer/")[1]["status"] != "RUNNING")
    status, task = ask(prelabelled, engineer, "GET", "/batch/infer")
    assert (status, task["status"], task["details"]) == (200, "DONE", ["3 of 3 cases, done"])
    assert task["progress"]["made"] == 3
    assert ask(prelabelled, engineer, "GET", "/batch/infer?check_if_running=true")[0] == 404
    _, again = ask(prelabelled, engineer, "POST", selector)
    wait_until(lambda: not found(jobs, again["id"]).active)
    result = found(jobs, again["id"]).result
    assert (result["cases"], result["made"], result["known"], result["failed"]) == (1, 1, 3, {})
    assert kept(prelabelled.store, cases) == Counter(case.id for case in cases)
    for number, case in enumerate(cases):
        prelabel = prelabelled.store.prelabel(case.id)
        assert prelabel is not None
        assert prelabel.model == model
        drawn = prelabelled.store.label(prelabel.label).volume().array_ZYX.ravel()
        assert (drawn[number], drawn[-1 - number], np.count_nonzero(drawn)) == (1, 2, 2)


def test_the_command_follows_a_job_goes_on_over_a_failing_case_and_names_it(
    prelabelled: Served, jobs: Jobs, worker: Process
) -> None:
    protocol, cases, model = with_cases(prelabelled, 3, first=100)  # a blob is damaged: no other test has it
    path = prelabelled.store.image_path(cases[1])
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-20])
    site = ["--site", str(prelabelled.site.root)]
    told = CliRunner().invoke(app, ["prelabel", protocol.name, *site])
    assert told.exit_code == 1, told.output
    assert f"{model} proposed for 2 case(s); 0 had its prelabel already, 1 failed." in told.output
    assert f"failed {cases[1].id}: " in told.output
    assert sorted(kept(prelabelled.store, cases)) == sorted(case.id for case in (cases[0], cases[2]))
    listed = CliRunner().invoke(app, ["prelabel", "--list", *site]).output
    [row] = [line for line in listed.splitlines() if f"prelabel-{protocol.name}-" in line]
    assert [cell.strip() for cell in row.strip("│ ").split("│")][1:] == [protocol.name, model, "done", "3", "3", "1"]


def test_a_pause_takes_effect_between_cases_and_neither_it_nor_kill_9_does_a_case_twice(
    prelabelled: Served, jobs: Jobs, worker: Process
) -> None:
    protocol, cases, _ = with_cases(prelabelled, 60)
    other, other_cases, _ = with_cases(prelabelled, 1)
    job_id = start_prelabelling(jobs, PrelabelRequest(protocol=protocol.name), "somebody")
    wait_until(lambda: done(jobs, job_id) >= 2)
    prelabel_job.pause(jobs, job_id)
    at_pause = kept(prelabelled.store, cases).total()
    assert found(jobs, job_id).paused
    behind = start_prelabelling(jobs, PrelabelRequest(protocol=other.name), "somebody")
    wait_until(lambda: not found(jobs, behind).active)  # the queue is free: the paused job does not stand in it
    assert kept(prelabelled.store, other_cases).total() == 1
    assert kept(prelabelled.store, cases).total() <= at_pause + 1 < len(cases)
    prelabel_job.resume(jobs, job_id)
    wait_until(lambda: done(jobs, job_id) >= at_pause + 4)
    worker.kill()
    assert found(jobs, job_id).active
    at_kill = kept(prelabelled.store, cases).total()
    assert at_kill < len(cases)
    with_another = Process("-m", "apps.worker", "--site", str(prelabelled.site.root))
    try:
        wait_until(lambda: not found(jobs, job_id).active)
    finally:
        with_another.kill()
    assert found(jobs, job_id).state == "SUCCESS", found(jobs, job_id).error
    assert kept(prelabelled.store, cases) == Counter(case.id for case in cases)
    result = found(jobs, job_id).result
    assert (result["done"], result["failed"]) == (60, {})
    # The case that was under way when the worker was killed may have been kept, and its step not yet.
    assert (result["made"], result["known"]) in ((60, 0), (59, 1))
