"""Labels by number, cases whose seats are taken, and whether a store is whole."""

import numpy as np

from apps.settings import Site
from labeling_protocols.label import Label
from labeling_protocols.records import Account, Case
from labeling_protocols.store import Store
from labeling_protocols.verification import verify
from labeling_protocols.worklist import reassign
from tests.conftest import OBLIQUE, image_of, label_of


def numbered_label(number: int) -> Label:
    """A label that differs from number to number, in the first voxels of its last slice."""
    array_ZYX = label_of().array_ZYX.copy()
    array_ZYX[-1].ravel()[:16] = [number >> bit & 1 for bit in range(16)]
    return Label(geometry=OBLIQUE, layers_LZYX=array_ZYX.astype(np.uint8)[np.newaxis])


def seated_cases(store: Store, readers: tuple[Account, ...], count: int) -> list[Case]:
    """Cases on which each of these readers has a seat and nothing saved."""
    cases = []
    for seed in range(count):
        case, _ = store.add_case(protocol="hippocampus", patient=f"P{seed}", volume=image_of(seed), modality="MR")
        for reader in readers:
            reassign(store, case.id, from_reader=None, to_reader=reader.id, actor="command line")
        cases.append(case)
    return cases


def assert_whole(store: Store, site: Site) -> None:
    assert [finding.words for finding in verify(store, site.public_key).findings] == []
