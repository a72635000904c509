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
from apps.endpoint import workflow as endpoint_workflow
from apps.jobs import launch_worker, sole_worker
from apps.settings import Site
from labeling_protocols import disputes, settlement
from labeling_protocols.comparisons import CatchingUp
from labeling_protocols.store import Store

JUDGE_EVERY_S = 5.0
_COMPARED_AT_ONCE = 50  # reads; so that verdicts do not wait for long

log = logging.getLogger("overread.worker")


def register(site: Site) -> None:
    """Declare every workflow a worker can run."""
    training_job.register(site)
    tuning_job.register(site)
    endpoint_workflow.register(site)
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
    with sole_worker(site) as alone:
        if not alone:
            raise SystemExit(f"another worker serves {site.root} already; this one was not started")
        launch_worker(site, register)
        print("worker: ready", flush=True)
        judge_until(ended, site)
        # Whatever runs now is durable and is taken up by the next worker: end at once rather than wait for it.
        os._exit(0)


if __name__ == "__main__":
    main()
