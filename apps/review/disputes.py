"""Disputes as an adjudicator may see them: readers become letters, drawn anew for each case, and numbers a table."""

from collections.abc import Mapping
from dataclasses import dataclass
from string import ascii_uppercase

import numpy as np
from numpy.typing import NDArray

from labeling_protocols import settlement
from labeling_protocols.consensus import consensus
from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.protocol import Protocol, Structure
from labeling_protocols.pseudonyms import keyed_order
from labeling_protocols.records import Account, Case, Dispute, Read, Verdict
from labeling_protocols.store import Store, UnknownError

MAJORITY = settlement.MAJORITY


class OwnCaseError(PermissionError):
    """An adjudicator who read the case himself; he is shown nothing of it."""


@dataclass(frozen=True, kw_only=True)
class AgreementRow:
    """Agreement of two readers on one outline, beside the protocol's limits; `hd95_mm` None: one left it out."""

    structure: str
    title: str
    pair: str
    dice: float
    hd95_mm: float | None
    dice_min: float
    hd95_mm_max: float

    @property
    def within(self) -> bool:
        return self.dice >= self.dice_min and self.hd95_mm is not None and self.hd95_mm <= self.hd95_mm_max


@dataclass(frozen=True, kw_only=True)
class ShownDispute:
    """One open dispute; `reads` maps letter to read."""

    case: Case
    protocol: Protocol
    verdict: Verdict
    reads: Mapping[str, Read]

    @property
    def structures(self) -> tuple[Structure, ...]:
        return self.protocol.structures

    def rows(self) -> list[AgreementRow]:
        letters = {read.reader: letter for letter, read in self.reads.items()}
        rows = []
        for pair in self.verdict.pairs:
            limits = self.protocol.agreement[pair.structure]
            if pair.dice is None or limits.dice_min is None or limits.hd95_mm_max is None:
                continue  # not outlined: the verdict's reasons tell how its boxes and points agree
            first, second = sorted((letters[pair.reader_a], letters[pair.reader_b]))
            rows.append(
                AgreementRow(
                    structure=pair.structure,
                    title=self.protocol.structure(pair.structure).title,
                    pair=f"{first}–{second}",
                    dice=pair.dice,
                    hd95_mm=pair.hd95_mm,
                    dice_min=limits.dice_min,
                    hd95_mm_max=limits.hd95_mm_max,
                )
            )
        return rows

    def volumes_ml(self) -> dict[str, dict[str, float]]:
        """Volume of each structure by letter."""
        voxel_ml = self.case.geometry.voxel_ml
        return {
            letter: {name: count * voxel_ml for name, count in read.voxels.items()}
            for letter, read in self.reads.items()
        }

    def reader(self, choice: str) -> str:
        """What the store calls a choice made by letter; what is no letter of this case is passed on to be refused."""
        return self.reads[choice].reader if choice in self.reads else choice if choice == MAJORITY else ""


def open_disputes(store: Store, protocol: str, account: Account) -> tuple[list[Dispute], int]:
    """The disputes this account may settle, worst first, and how many are kept from it because it read them."""
    found = settlement.disputes(store, protocol)
    mine = [dispute for dispute in found if any(read.reader == account.id for read in dispute.reads)]
    return [dispute for dispute in found if dispute not in mine], len(mine)


def find_dispute(store: Store, secret: bytes, case_id: str, account: Account) -> ShownDispute:
    """The open dispute over a case; raises `UnknownError` where there is none, `OwnCaseError` for its readers."""
    case = store.case(case_id)
    if store.reads(case_id, account.id):
        raise OwnCaseError("you read this case yourself; another adjudicator settles it. Nothing is shown of it.")
    if settlement.adjudication_of(store, case_id) is not None:
        raise UnknownError("this dispute is settled already")
    verdict = settlement.settle(store, case_id)
    if verdict is None or verdict.agreed:
        raise UnknownError("this case is not in dispute")
    judged = {reader for pair in verdict.pairs for reader in (pair.reader_a, pair.reader_b)}
    reads = [read for read in store.latest_reads(case_id) if read.reader in judged]
    return ShownDispute(
        case=case, protocol=store.protocol(case.protocol), verdict=verdict, reads=_lettered(secret, case_id, reads)
    )


def majority_of(store: Store, dispute: ShownDispute) -> Volume:
    """What choosing the majority would take."""
    return consensus(dispute.protocol, [store.label(read.label) for read in dispute.reads.values()]).volume()


def focus_mm_RAS(store: Store, dispute: ShownDispute) -> tuple[float, float, float]:
    """The middle of the disagreement in the slice that has most of it: where a viewer opens.

    Where no voxel is in dispute: the first box or point of any reader, else the middle of the image.
    """
    labels = [store.label(read.label) for read in dispute.reads.values()]
    differs = np.zeros(dispute.case.geometry.shape_ZYX, dtype=bool)
    for structure in dispute.protocol.outlined:
        masks = [label.mask_ZYX(structure.value) for label in labels]
        differs |= np.any([mask != masks[0] for mask in masks[1:]], axis=0)
    if differs.any():
        return _middle_mm_RAS(differs, dispute.case.geometry)
    places = [box.centre_mm_LPS for label in labels for box in label.boxes]
    places += [point.position_mm_LPS for label in labels for point in label.points]
    x, y, z = places[0] if places else dispute.case.geometry.corners_mm_LPS().mean(axis=0)
    return (-float(x), -float(y), float(z))


def _middle_mm_RAS(mask_ZYX: NDArray[np.bool_], geometry: Geometry) -> tuple[float, float, float]:
    z = int(mask_ZYX.sum(axis=(1, 2)).argmax())
    points_YX = np.argwhere(mask_ZYX[z])
    middle = np.median(points_YX, axis=0)
    y, x = points_YX[np.abs(points_YX - middle).sum(axis=1).argmin()]
    point = geometry.affine_RAS() @ np.array([x, y, z, 1.0])
    return float(point[0]), float(point[1]), float(point[2])


def _lettered(secret: bytes, case_id: str, reads: list[Read]) -> dict[str, Read]:
    """Letters in an order that only the site's key knows, so that a letter says nothing from one case to the next."""
    by_reader = {read.reader: read for read in reads}
    order = keyed_order(secret, case_id, by_reader)
    return {letter: by_reader[reader] for letter, reader in zip(ascii_uppercase, order, strict=False)}
