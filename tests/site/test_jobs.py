"""Jobs wait, are found, are started once however often they are asked for, and can be cancelled."""

import logging

from apps.jobs import TRAINING_QUEUE, Jobs, _is_no_cancellation, sole_worker
from apps.settings import Site
from training.loop import TrainingCancelled


def test_a_job_asked_for_twice_is_one_job(site: Site) -> None:
    jobs = Jobs(site)
    for _ in range(2):
        jobs.start("train", TRAINING_QUEUE, "train-once", protocol="hippocampus")
    assert [job.id for job in jobs.active("train")] == ["train-once"]
    assert jobs.progress("train-once") is None
    jobs.close()


def test_a_cancelled_job_is_no_longer_active(site: Site) -> None:
    jobs = Jobs(site)
    jobs.start("train", TRAINING_QUEUE, "train-1", protocol="hippocampus")
    jobs.cancel("train-1")
    job = jobs.find("train-1")
    assert job is not None
    assert job.state == "CANCELLED"
    assert jobs.active("train") == []
    assert jobs.find("never") is None
    jobs.close()


def test_a_site_has_one_worker_at_a_time(site: Site) -> None:
    with sole_worker(site) as first:
        assert first
        with sole_worker(site) as second:
            assert not second
    with sole_worker(site) as again:
        assert again


def test_a_cancelled_job_is_no_error_in_the_log_and_a_failed_one_is() -> None:
    def logged(error: Exception) -> bool:
        return _is_no_cancellation(logging.LogRecord("dbos", logging.ERROR, "", 0, "", (), (type(error), error, None)))

    assert not logged(TrainingCancelled("by its owner"))
    assert logged(ValueError("a damaged label"))
    assert _is_no_cancellation(logging.LogRecord("dbos", logging.WARNING, "", 0, "no exception", (), None))
