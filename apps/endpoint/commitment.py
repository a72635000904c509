"""Storage Commitment: instances that a sender wants to delete in, which of them are held out (PS3.4 annex J).

The request is a durable job before it is acknowledged. The report goes to the sender on an association of its own, at
the address that the settings give for its AE title, again and again while it does not take it.
"""

import hashlib
from io import BytesIO
from typing import Any

from dbos import DBOS, StepOptions
from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import AE, build_role, evt
from pynetdicom.dsutils import decode
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from apps.endpoint.deliver import DeliveryError, send_at_once
from apps.endpoint.inbox import Inbox, is_uid
from apps.jobs import COMMITMENT_QUEUE, Jobs
from apps.settings import Peer, Site
from labeling_protocols.store import Store

WORKFLOW = "report_commitment"

_INSTANCES_MAX = 20_000
REQUEST_BYTES_MAX = 8 << 20
_ATTEMPTS, _INTERVAL_S = 8, 2.0  # after 2, 4, … 128 s
_ALL_HELD, _SOME_LACKING = 1, 2  # event type ids (PS3.4 table J.3-2)
_NO_SUCH_INSTANCE = 0x0112  # failure reason (PS3.3 C.14.1.1)


class CommitmentError(ValueError):
    """A request that cannot be answered; the message fits an Error Comment (64 characters)."""


def ask(site: Site, jobs: Jobs, sender: str, encoded: bytes, transfer_syntax: str) -> None:
    """Make a job of a request's data set; raises `CommitmentError`, having made none."""
    if _peer(site, sender) is None:
        raise CommitmentError("no address of this AE title is in the settings")
    transaction, instances = _asked(encoded, transfer_syntax)
    name = hashlib.sha256(f"{sender}/{transaction}".encode()).hexdigest()[:32]
    listed = "\n".join(f"{sop_class} {instance}" for sop_class, instance in instances)
    jobs.start(WORKFLOW, COMMITMENT_QUEUE, f"commit-{name}", sender=sender, transaction=transaction, instances=listed)


def register(site: Site) -> None:
    """Declare the workflow `report_commitment(sender, transaction, instances)` for this site in this process."""
    store = Store(site.database_url, site.blobs)
    inbox = Inbox(store, site.folder("inbox"))

    @DBOS.step(name="commitment.look")
    def look(instances: str) -> list[str]:
        """The listed instances that are not held."""
        asked = [line.split(" ")[1] for line in instances.splitlines()]
        held = inbox.held(asked)
        return [instance for instance in asked if instance not in held]

    @DBOS.workflow(name=WORKFLOW)
    def report_commitment(sender: str, transaction: str, instances: str) -> dict[str, Any]:
        lacking = look(instances)
        options = StepOptions(
            name="commitment.report",
            retries_allowed=True,
            interval_seconds=_INTERVAL_S,
            max_attempts=_ATTEMPTS,
            backoff_rate=2.0,
        )
        DBOS.run_step(options, _report, site, sender, transaction, instances, lacking)
        return {"sender": sender, "asked": len(instances.splitlines()), "lacking": len(lacking)}


def _asked(encoded: bytes, transfer_syntax: str) -> tuple[str, list[tuple[str, str]]]:
    """Transaction UID and the instances' classes and UIDs."""
    try:
        request = _decoded(encoded, transfer_syntax)
        transaction = str(request.TransactionUID)
        listed = [
            (str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID))
            for item in request.ReferencedSOPSequence
        ]
    except Exception as error:  # hostile bytes raise anything
        raise CommitmentError(f"the request cannot be read ({type(error).__name__})") from error
    uids = [transaction, *(uid for pair in listed for uid in pair)]
    if not listed or len(listed) > _INSTANCES_MAX or not all(is_uid(uid) for uid in uids):
        raise CommitmentError(f"expected valid UIDs of 1 to {_INSTANCES_MAX} instances")
    return transaction, listed


def _decoded(encoded: bytes, transfer_syntax: str) -> Dataset:
    syntax = UID(transfer_syntax)
    return decode(BytesIO(encoded), syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)


def _report(site: Site, sender: str, transaction: str, instances: str, lacking: list[str]) -> None:
    """Tell the sender once; raises `DeliveryError` where it does not take it."""
    peer = _peer(site, sender)
    if peer is None:
        raise DeliveryError(f"no address of {sender} is in the settings any more")
    entity = AE(ae_title=site.config.dicom.ae_title)
    entity.add_requested_context(StorageCommitmentPushModel)
    association = entity.associate(
        peer.host,
        peer.port,
        ae_title=peer.ae_title,
        ext_neg=[build_role(StorageCommitmentPushModel, scp_role=True)],
        evt_handlers=[(evt.EVT_CONN_OPEN, send_at_once)],
    )
    if not association.is_established:
        raise DeliveryError(f"{peer.ae_title} at {peer.host}:{peer.port} took no association")
    try:
        status, _ = association.send_n_event_report(
            _report_data_set(transaction, instances, set(lacking)),
            _SOME_LACKING if lacking else _ALL_HELD,
            StorageCommitmentPushModel,
            StorageCommitmentPushModelInstance,
        )
    finally:
        association.release()
    if status.get("Status") != 0:
        raise DeliveryError(f"{peer.ae_title} at {peer.host}:{peer.port} did not take a storage commitment report")


def _report_data_set(transaction: str, instances: str, lacking: set[str]) -> Dataset:
    """PS3.4 table J.3-2."""
    report = Dataset()
    report.TransactionUID = transaction
    held, failed = [], []
    for line in instances.splitlines():
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = line.split(" ")
        if item.ReferencedSOPInstanceUID in lacking:
            item.FailureReason = _NO_SUCH_INSTANCE
            failed.append(item)
        else:
            held.append(item)
    if held:
        report.ReferencedSOPSequence = held
    if failed:
        report.FailedSOPSequence = failed
    return report


def _peer(site: Site, ae_title: str) -> Peer | None:
    return next((peer for peer in site.config.dicom.peers if peer.ae_title == ae_title), None)
