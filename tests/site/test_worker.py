"""What a worker does beside its jobs: verdicts are made without anybody asking."""

import threading

from apps.settings import Site
from apps.worker import judge_until
from labeling_protocols.label import Label
from labeling_protocols.records import Account, Outcome
from labeling_protocols.store import Store
from labeling_protocols.worklist import next_case
from tests.conftest import image_of, label_of


def test_reads_are_judged_while_the_worker_runs(store: Store, site: Site, readers: tuple[Account, Account]) -> None:
    case, _ = store.add_case(protocol="hippocampus", patient="P1", volume=image_of(1), modality="MR")
    for reader, shift in zip(readers, (0, 3), strict=True):
        next_case(store, "hippocampus", reader.id)
        store.save_read(case_id=case.id, reader=reader.id, label=Label.of(label_of(shift)))
    assert store.cases("hippocampus", (Outcome.UNJUDGED,)) == [case]
    ended = threading.Event()
    worker = threading.Thread(target=judge_until, args=(ended, site, 0.01))
    worker.start()
    try:
        while not store.cases("hippocampus", (Outcome.DISPUTED,)):
            assert worker.is_alive()
            worker.join(0.02)
    finally:
        ended.set()
        worker.join()
    assert store.progress("hippocampus").disputes == 1
