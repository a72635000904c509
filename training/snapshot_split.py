"""Who is held out of training, and where each patient lies among the folds: pseudonyms and a key in, both out. Pure.

Both come from hashes of a patient's pseudonym under the site's key, so that they depend on nobody else, do not move
when cases are added, and cannot be guessed or chosen from outside.
"""

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from types import MappingProxyType

HELD_OUT_SHARE = 0.2
_NOBODY: Mapping[str, bool] = MappingProxyType({})


class SnapshotError(ValueError):
    """Truths that no training can be made of, or a snapshot that is none: what was found, what was expected."""


def held_out_patients(
    patients: Iterable[str],
    *,
    secret: bytes,
    share: float = HELD_OUT_SHARE,
    decided: Mapping[str, bool] = _NOBODY,
) -> frozenset[str]:
    """The patients who are held out: those of `decided` as it says, others whose hash falls below `share`.

    Where that leaves a side empty, a stand-in fills it: of the patients not decided yet the one with the lowest hash is
    held out, or the one with the highest is trained on; with a share of 0 nobody needs to be held out. Whoever keeps
    what came out, and gives it as `decided` the next time, never sees a patient change sides. Raises `SnapshotError`
    for fewer than two patients, and where a side stays empty because everybody is decided.
    """
    by_hash = sorted((_part(b"split/", patient, secret, 7), patient) for patient in set(patients))
    if len(by_hash) < 2:
        raise SnapshotError(
            f"found truths of {len(by_hash)} patient(s); a split by patient needs at least two. Nothing was trained."
        )
    everybody = frozenset(patient for _, patient in by_hash)
    held_out = frozenset(patient for value, patient in by_hash if decided.get(patient, value < share))
    if held_out != everybody and (held_out or share == 0):
        return held_out
    free = [patient for _, patient in by_hash if patient not in decided]
    if not free:
        was, needed = ("held out", "trained on") if held_out else ("trained on", "held out")
        raise SnapshotError(
            f"each of the {len(everybody)} patients was {was} before and stays so, and one to be {needed} is missing;"
            " a truth of another patient was expected. Nothing was trained."
        )
    return everybody - {free[-1]} if held_out else frozenset({free[0]})


def fold_value(patient: str, secret: bytes) -> float:
    """A number in [0, 1) that says where a patient lies among any number of folds, independent of who is held out."""
    return _part(b"fold/", patient, secret, 6)


def _part(purpose: bytes, patient: str, secret: bytes, length: int) -> float:
    """The first bytes of the keyed hash, as a fraction."""
    digest = hmac.new(secret, purpose + patient.encode(), hashlib.sha256).digest()
    return int.from_bytes(digest[:length]) / 256**length
