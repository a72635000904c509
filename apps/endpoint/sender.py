"""What waits to go out in, C-STOREs to its destinations out, again and again while one does not take it.

A process of its own with one thread: pynetdicom's client was seen to lose associations with several. What a killed
sender had sent and not noted is sent again under the same UIDs, which a destination stores once.
"""

import argparse
import logging
import signal
import threading
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from apps.dicom_logs import keep_values_out_of_logs
from apps.endpoint.deliver import AwayError, DeliveryError, deliver
from apps.endpoint.results import Delivery, delivered, due, given_up, postponed, result
from apps.locks import locked
from apps.settings import Destination, Site
from labeling_protocols.store import Store, now

_POLL_S = 0.25
_AT_ONCE = 100
_FIRST_WAIT, _LONGEST_WAIT = timedelta(seconds=1), timedelta(minutes=5)

_log = logging.getLogger(__name__)


class Sender:
    """One round of deliveries after the other."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._store = Store(site.database_url, site.blobs)
        self._destinations = {one.ae_title: one for one in site.config.dicom.destinations}

    def close(self) -> None:
        self._store.close()

    def send_due(self, ended: threading.Event) -> int:
        """Attempt what is due; how many attempts there were. A destination that is away is left alone for now."""
        attempts = 0
        away: set[str] = set()
        for delivery in due(self._store, now(), _AT_ONCE):
            if ended.is_set():
                break
            if delivery.destination in away:
                continue
            attempts += 1
            try:
                self._attempt(delivery)
            except AwayError as error:
                away.add(delivery.destination)
                self._failed(delivery, str(error))
            except DeliveryError as error:
                self._failed(delivery, str(error))
            except OSError as error:
                self._failed(delivery, f"the object could not be read ({error.strerror})")
        return attempts

    def _attempt(self, delivery: Delivery) -> None:
        deliver(self._files(delivery), self._destination(delivery), self._site.config.dicom.ae_title)
        delivered(self._store, delivery)

    def _files(self, delivery: Delivery) -> list[Path]:
        folder = self._site.folder("results")
        return [folder / name for name in result(self._store, delivery.result).files]

    def _destination(self, delivery: Delivery) -> Destination:
        try:
            return self._destinations[delivery.destination]
        except KeyError:
            raise DeliveryError(f"{delivery.destination} is not among the settings' destinations any more") from None

    def _failed(self, delivery: Delivery, reason: str) -> None:
        """Wait twice as long as before, or give up after the time that the settings say."""
        _log.warning("result %d: %s", delivery.result, reason)
        if now() - delivery.created > timedelta(hours=self._site.config.dicom.give_up_hours):
            given_up(self._store, delivery, reason)
        else:
            wait = min(_FIRST_WAIT * 2 ** min(delivery.attempts, 20), _LONGEST_WAIT)
            postponed(self._store, delivery, now() + wait, reason)


def _send_until(sender: Sender, ended: threading.Event) -> None:
    while not ended.is_set():
        try:
            if not sender.send_due(ended):
                ended.wait(_POLL_S)
        except Exception:  # noqa: BLE001  it must outlive a busy database; it looks again
            _log.exception("sending failed; trying again")
            ended.wait(_POLL_S)


def main() -> None:
    """Send a site's results until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="apps.endpoint.sender", description=__doc__)
    parser.add_argument("--site", type=Path, required=True)
    site = Site(parser.parse_args().site)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    keep_values_out_of_logs()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with locked(site.root / "sender.lock"), closing(Sender(site)) as sender:
        print("sender: ready", flush=True)
        _send_until(sender, ended)


if __name__ == "__main__":
    main()
