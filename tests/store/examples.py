"""Labels by number, cases whose seats are taken, and whether a store is whole."""

from dataclasses import replace

import numpy as np

from apps.settings import Site
from labeling_protocols.label import Label
from labeling_protocols.protocol import Protocol
from labeling_protocols.protocol_parts import AdjudicationRule
from labeling_protocols.records import Account, Case
from labeling_protocols.settlement import settle
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


def disputed_case(store: Store, readers: tuple[Account, ...], *, protocol: str = "hippocampus", seed: int = 1) -> Case:
    """A case in dispute: each reader's outlines lie 3 voxels further than the one's before."""
    case, _ = store.add_case(protocol=protocol, patient=f"P{seed}", volume=image_of(seed), modality="MR")
    for number, reader in enumerate(readers):
        reassign(store, case.id, from_reader=None, to_reader=reader.id, actor="command line")
        store.save_read(case_id=case.id, reader=reader.id, label=Label.of(label_of(3 * number)))
    verdict = settle(store, case.id)
    assert verdict is not None
    assert not verdict.agreed
    return case


def with_rule(store: Store, protocol: Protocol, **rule: object) -> Protocol:
    """This protocol under the name `ruled`, with such a rule of adjudication."""
    ruled = replace(protocol, name="ruled", adjudication=AdjudicationRule(**rule))  # type: ignore[arg-type]
    store.add_protocol(ruled)
    return ruled


def assert_whole(store: Store, site: Site) -> None:
    assert [finding.words for finding in verify(store, site.public_key).findings] == []
