"""Scoring as a job: the champion looks at what waits, what it said is kept, and the worklist follows a strategy."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from apps.acquisition_commands import outcome_words
from apps.acquisition_job import Scoring, ScoringCancelledError
from apps.acquisition_ordering import order_cases
from apps.acquisition_start import WORKFLOW, ScoringRequest, ScoringWatch, protocol_of, start_scoring
from apps.command import app
from apps.jobs import Jobs
from apps.settings import Site
from apps.training_site import registry_of
from labeling_protocols import schema
from labeling_protocols.case_scores import has_order, offers, orders, standing_order
from labeling_protocols.geometry import Volume
from labeling_protocols.label import Label
from labeling_protocols.records import Account, Case
from labeling_protocols.store import Store
from labeling_protocols.worklist import next_case, order
from tests.conftest import label_of
from tests.training.drawn import STRAIGHT, draw
from tests.waiting import until
from training.acquisition import STRATEGIES, AcquisitionError
from training.bundle import write_bundle
from training.gate_report import Decision, GateReport
from training.model_card import Candidate, bundle_parts
from training.registry import GATE_REPORT, Registry
from training.tracking import Tracking

NAME = "hippocampus"
HARD = range(90, 92)  # seeds of patients who can hardly be seen


def release(site: Site, candidate: Candidate) -> str:
    """The trained network as one more version of the site's champion."""
    registry = registry_of(site)
    run = Tracking(site.tracking_uri, site.folder("mlflow") / "artifacts").run(
        f"train-{len(registry.versions(NAME))}", NAME
    )
    number = registry.reserve(NAME, run.id)
    parts = bundle_parts(replace(candidate, version=f"1.0.{number}", run_id=run.id))
    path = write_bundle(parts, name=candidate.name, folder=site.folder("bundles"), signing_key=site.signing_key)
    standing = registry.champion_or_none(NAME)
    report = GateReport(
        protocol=NAME,
        run_id=run.id,
        snapshot="0" * 64,
        bundle_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        champion=standing.number if standing else None,
        evaluation="1" * 64,
        test_set="0" * 64,
        figures={"dice_mean": 1.0},
        missed=0,
        cases=1,
        patients=1,
        decision=Decision(passed=True, reasons=()),
    )
    run.text(GATE_REPORT, report.as_json())
    registry.register(NAME, number, f"1.0.{number}", report)
    return registry.promote(NAME, number, report).name


def add_cases(store: Store, seeds: range) -> list[Case]:
    """Drawn patients; those of `HARD` seeds drown in noise."""
    made = []
    for seed in seeds:
        image, _ = draw(seed)
        if seed in HARD:
            noise = np.random.default_rng(seed).normal(0, 60, image.array_ZYX.shape)
            faint = (0.3 * image.array_ZYX.astype(np.float32) + noise).astype(np.float32)
            image = Volume(array_ZYX=faint, geometry=image.geometry)
        made.append(store.add_case(protocol=NAME, patient=f"P{seed}", volume=image, modality="MR")[0])
    return made


def never() -> bool:
    return False


def score(site: Site, store: Store, strategy: str, budget_s: float | None = None) -> list[str]:
    """Score as the job does, here; the ids of the waiting cases in their new order."""
    request = ScoringRequest(protocol=NAME, strategy=strategy, budget_s=budget_s)
    with Scoring(site, request) as scoring:
        model = scoring.look_at_cases(lambda said: None, never)["model"]
    ordered = order_cases(store, NAME, model, strategy, actor="tests", budget_s=budget_s)
    assert (ordered.batch > 0) == (budget_s is not None)
    table = schema.cases
    with store.engine.connect() as connection:
        query = sa.select(table.c.id).where(table.c.known_truth.is_(None)).order_by(table.c.rank, table.c.id)
        return list(connection.execute(query).scalars())


def test_the_worklist_follows_the_strategy_and_readers_are_told_why(
    site: Site, store: Store, candidate: Candidate, readers: tuple[Account, Account]
) -> None:
    model = release(site, candidate)
    add_cases(store, range(3))
    hard = {case.id for case in add_cases(store, HARD)}
    assert {*score(site, store, "predictive_entropy")[:2]} == hard
    first = next_case(store, NAME, readers[0].id)
    assert first is not None
    told = offers(store, readers[0].id, [first.id])[first.id]
    assert (told.strategy, told.model) == ("predictive_entropy", model)
    assert told.why in {f"The model is unsure of {part} hippocampus here." for part in ("Anterior", "Posterior")}
    assert {one.strategy for one in orders(store, NAME)} == {*STRATEGIES}
    given = next_case(store, NAME, readers[1].id, strategy="random")
    assert given is not None


def test_a_model_looks_at_a_case_once_and_goes_on_where_it_was_stopped(
    site: Site, store: Store, candidate: Candidate
) -> None:
    release(site, candidate)
    add_cases(store, range(4))
    request = ScoringRequest(protocol=NAME, strategy="bald")
    said: list[dict[str, object]] = []
    with Scoring(site, request) as scoring:
        with pytest.raises(ScoringCancelledError):
            scoring.look_at_cases(said.append, lambda: len(said) == 3)
        assert [(one["case"], one["cases"]) for one in said] == [(0, 4), (1, 4), (2, 4)]
        assert scoring.look_at_cases(lambda said: None, never)["scored"] == 2
        assert scoring.look_at_cases(lambda said: None, never)["scored"] == 0
    assert orders(store, NAME) == []
    score(site, store, "bald")
    release(site, candidate)
    with Scoring(site, request) as scoring:
        assert scoring.look_at_cases(lambda said: None, never)["scored"] == 4


def test_without_a_champion_cases_are_shuffled_or_ordered_by_what_images_look_like(site: Site, store: Store) -> None:
    cases = add_cases(store, range(4)) + add_cases(store, HARD)
    shuffled = score(site, store, "foreground_random")
    assert shuffled != sorted(case.id for case in cases)
    assert shuffled == score(site, store, "foreground_random")
    with store.engine.connect() as connection:
        assert standing_order(connection, NAME).strategy == "random"
    first_two = {*score(site, store, "k_centre")[:2]}
    hard = {case.id for case in cases[4:]}
    assert len(first_two & hard) == 1, "one of each kind comes first"
    assert not has_order(store, NAME, "bald")


def test_a_batch_within_the_readers_hours_comes_first(site: Site, store: Store, candidate: Candidate) -> None:
    """No read has been measured: each case is taken to need a second."""
    release(site, candidate)
    add_cases(store, range(4))
    hard = [case.id for case in add_cases(store, HARD)]
    order_found = score(site, store, "hybrid", budget_s=2.0)
    assert len({*order_found}) == 6
    assert order_found[0] in hard


def test_calibration_cases_have_a_sentence_and_no_place_in_the_worklist(
    site: Site, store: Store, candidate: Candidate
) -> None:
    release(site, candidate)
    known, *others = add_cases(store, range(3))
    store.set_calibration(known.id, Label.of(label_of(geometry=STRAIGHT)))
    assert {*score(site, store, "predictive_entropy")} == {case.id for case in others}
    table = schema.case_scores
    with store.engine.connect() as connection:
        of_strategy = table.c.strategy == "predictive_entropy"
        rows = connection.execute(sa.select(table.c.case, table.c.why).where(of_strategy))
        why = {row.case: row.why for row in rows}
        rank = connection.execute(sa.select(schema.cases.c.rank).where(schema.cases.c.id == known.id)).scalar_one()
    assert "unsure of" in why[known.id]
    assert rank == 0.0


def test_a_damaged_image_comes_last_and_holds_nobody_up(site: Site, store: Store, candidate: Candidate) -> None:
    release(site, candidate)
    damaged, *_ = add_cases(store, range(3))
    store.image_path(damaged).write_bytes(b"no image")
    with Scoring(site, ScoringRequest(protocol=NAME, strategy="bald")) as scoring:
        failed = scoring.look_at_cases(lambda said: None, never)["failed"]
    assert [*failed] == [damaged.id]
    assert failed[damaged.id]
    assert score(site, store, "bald")[-1] == damaged.id


def test_a_new_champion_or_new_cases_start_one_scoring_each(site: Site, store: Store, candidate: Candidate) -> None:
    watching, jobs = ScoringWatch(site, store), Jobs(site)
    assert watching.start(NAME) is None, "there is no champion"
    model = release(site, candidate)
    assert watching.start(NAME) is None, "no case waits"
    add_cases(store, range(2))
    first = watching.start(NAME)
    assert first is not None
    assert protocol_of(first) == NAME
    assert watching.start(NAME) is None, "it waits for the worker"
    jobs.cancel(first)
    assert watching.start(NAME) is None, "somebody ended it"
    add_cases(store, range(2, 3))
    second = watching.start(NAME)
    assert second not in (None, first)
    release(site, candidate)
    assert watching.start(NAME) is None, "one at a time for each protocol"
    jobs.cancel(str(second))
    third = watching.start(NAME)
    assert third not in (None, first, second)
    asked = ScoringRequest(protocol=NAME, strategy="hybrid")
    jobs.cancel(str(third))
    again = start_scoring(jobs, store, registry_of(site), asked, "somebody")
    assert again == f"{third}-2", "a person may ask again"
    assert start_scoring(jobs, store, registry_of(site), asked, "somebody") == again
    assert [job.id for job in jobs.active(WORKFLOW)] == [again]
    with pytest.raises(AcquisitionError, match="unknown strategy"):
        start_scoring(jobs, store, registry_of(site), replace(asked, strategy="best"), "somebody")
    assert model.endswith("1.0.1")
    watching.close()
    jobs.close()


@contextmanager
def worker(site: Site) -> Iterator[None]:
    log = (site.folder("logs") / "worker.log").open("ab")
    with log, subprocess.Popen([sys.executable, "-m", "apps.worker", "--site", str(site.root)], stderr=log) as process:
        try:
            yield
        finally:
            process.kill()


def looked_at(store: Store) -> dict[str, object]:
    table = schema.case_summaries
    with store.engine.connect() as connection:
        return {row.case: row.created for row in connection.execute(sa.select(table.c.case, table.c.created))}


@pytest.mark.slow
def test_a_killed_scoring_is_taken_up_where_it_was_and_no_case_is_looked_at_twice(
    site: Site, store: Store, candidate: Candidate
) -> None:
    (site.root / "config.toml").write_text('[training]\ndevice = "cpu"\n[acquisition]\nviews = 16\n')
    site = Site(site.root)
    release(site, candidate)
    cases = add_cases(store, range(20))
    jobs = Jobs(site)
    registry: Registry = registry_of(site)
    request = ScoringRequest(protocol=NAME, strategy="bald")
    job_id = start_scoring(jobs, store, registry, request, "somebody")
    with worker(site):
        until(lambda: len(looked_at(store)) >= 2, "the first cases", limit_s=500)
    before = looked_at(store)
    assert len(before) < len(cases)
    order(store, NAME, {}, actor="tests")
    with worker(site):
        until(lambda: not jobs.find(job_id).active, "the job's end", limit_s=500)  # type: ignore[union-attr]
    job = jobs.find(job_id)
    assert job is not None
    assert (job.state, job.result["strategy"], job.result["cases"]) == ("SUCCESS", "bald", 20), job.error
    after = looked_at(store)
    assert len(after) == 20
    assert {case: after[case] for case in before} == before
    jobs.close()


def test_strategies_and_orders_are_shown_by_command(site: Site, store: Store) -> None:
    def run(*arguments: str) -> str:
        told = CliRunner().invoke(app, ["score", *arguments, "--site", str(site.root)])
        return told.output + str(told.exception or "")

    listed = run("--strategies")
    assert all(name in listed for name in STRATEGIES)
    add_cases(store, range(2))
    score(site, store, "sequential")
    shown = run("--list")
    assert [line for line in shown.splitlines() if "sequential" in line and "follows it" in line]
    assert "expected a protocol, or one of --cancel" in run(NAME, "--list")
    assert "expected one of foreground_random" in run(NAME, "--strategy", "best")
    assert "unknown protocol" in run("liver")
    assert "there is no such scoring" in run("--cancel", "train-hippocampus-1")


def test_what_a_scoring_came_to_is_said_in_words() -> None:
    result = {"model": "", "scored": 5, "failed": {"c1": "no image"}, "asked": "bald", "strategy": "random"}
    words = outcome_words({**result, "cases": 6, "batch": 2})
    assert "5 case(s) were looked at by no model, 1 could not be" in words
    assert "bald needs a champion, and there is none yet" in words
    assert "The first 2 of them fit" in words
    assert "c1: no image" in words
