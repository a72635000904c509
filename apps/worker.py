"""The worker: takes the site's durable jobs (training, prelabels, inference of series) from their queues, judges reads.

`python -m apps.worker --site DIR` runs until SIGTERM; a job that was interrupted is taken up again by the next worker.
"""

import argparse
import logging
import os
import signal
import threading
from pathlib import Path

from apps import acquisition_job, compat, prelabel_job, training_job, tuning_job
from apps.acquisition_start import ScoringWatch
from apps.endpoint import commitment as endpoint_commitment
from apps.endpoint import workflow as endpoint_workflow
from apps.jobs import launch_worker, sole_worker
from apps.settings import Site
from labeling_protocols import disputes, settlement
from labeling_protocols.comparisons import CatchingUp
from labeling_protocols.store import Store

JUDGE_EVERY_S = 5.0
WAITS = "waits for a command that works on this site's jobs"
_LOCK_EVERY_S = 1.0
_COMPARED_AT_ONCE = 50  # reads; so that verdicts do not wait for long

log = logging.getLogger("overread.worker")


def register(site: Site) -> None:
    """Declare every workflow a worker can run."""
    training_job.register(site)
    tuning_job.register(site)
    endpoint_workflow.register(site)
    endpoint_commitment.register(site)
    prelabel_job.register(site)
    acquisition_job.register(site)


def judge_until(ended: threading.Event, site: Site, every_s: float = JUDGE_EVERY_S) -> None:
    """Make the verdicts that are due, compare settled reads with their truths, and have new champions look at the cases
    that wait, again and again.

    Here and not where a read is saved: what that costs would tell a reader who came last, and who agreed.
    """
    store = Store(site.database_url, site.blobs)
    catching_up = CatchingUp(store)
    scoring = ScoringWatch(site, store)
    while not ended.wait(every_s):
        try:
            for protocol in store.protocols():
                settlement.judge(store, protocol.name)
                disputes.move_on(store, protocol)
                catching_up.step(protocol.name, _COMPARED_AT_ONCE)
            scoring.step()
        except Exception as error:  # noqa: BLE001  a busy database or a damaged label must not end the jobs of this worker
            log.warning("not every verdict could be made: %s", type(error).__name__)
    scoring.close()
    store.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="apps.worker", description=__doc__)
    parser.add_argument("--site", type=Path, required=True)
    site = Site(parser.parse_args().site)
    compat.mend()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    threading.Thread(target=_work_once_alone, args=(site, ended), name="jobs", daemon=True).start()
    judge_until(ended, site)
    # Whatever runs now is durable and is taken up by the next worker: end at once rather than wait for it.
    os._exit(0)


def _work_once_alone(site: Site, ended: threading.Event) -> None:
    """Take jobs as soon as no other process does; where that fails, end the process, so that another one is started."""
    try:
        _wait_and_work(site, ended)
    except Exception:
        log.exception("the worker cannot take jobs, and ends")
        os._exit(1)


def _wait_and_work(site: Site, ended: threading.Event) -> None:
    """A command may be at work on its own job, and ends with it."""
    waits = False
    while not ended.is_set():
        with sole_worker(site) as alone:
            if alone:
                launch_worker(site, register)
                print("worker: ready", flush=True)
                ended.wait()
                return
        if not waits:
            print(f"worker: {WAITS}; judging reads meanwhile", flush=True)
            waits = True
        ended.wait(_LOCK_EVERY_S)


if __name__ == "__main__":
    main()
