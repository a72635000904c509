"""Disputes without a server: what is shown of one that is not about voxels."""

import pytest

from apps.accounts import Accounts
from apps.review.disputes import find_dispute, focus_mm_RAS
from labeling_protocols.label import Box, Label
from labeling_protocols.protocol import SHIPPED, load_protocol
from labeling_protocols.records import Role
from labeling_protocols.store import Store
from labeling_protocols.worklist import next_case
from tests.conftest import OBLIQUE, image_of, label_of

PLACE_LPS = tuple((OBLIQUE.affine_LPS() @ [3.0, 4.0, 2.0, 1.0])[:3].tolist())


def test_a_dispute_over_a_box_opens_at_the_box(store: Store, accounts: Accounts) -> None:
    store.add_protocol(load_protocol(SHIPPED / "lung_nodule.yaml"))
    store.add_case(protocol="lung_nodule", patient="P1", volume=image_of(1), modality="CT")
    nothing = Label.of(label_of()).layers_LZYX[:0]
    box = Box(structure="nodule", centre_mm_LPS=PLACE_LPS, size_mm_XYZ=(2.0, 2.0, 2.0))
    for number, boxes in enumerate([(), (), (), (box,)]):
        reader = accounts.add(f"reader{number}", "long-password", frozenset({Role.READER}))
        case = next_case(store, "lung_nodule", reader.id)
        assert case is not None
        label = Label(geometry=OBLIQUE, layers_LZYX=nothing, boxes=boxes)
        store.save_read(case_id=case.id, reader=reader.id, label=label)
    adjudicator = accounts.add("judge", "long-password", frozenset({Role.ADJUDICATOR}))
    dispute = find_dispute(store, b"secret", case.id, adjudicator)
    [finder] = [letter for letter, read in dispute.reads.items() if read.reader == reader.id]
    assert any(f"reader {finder}" in reason for reason in dispute.reasons())
    assert not any(read.reader in reason for reason in dispute.reasons() for read in dispute.reads.values())
    beyond = [row for row in dispute.rows() if not row.within]
    assert [finder in row.pair for row in beyond] == [True] * 3
    x, y, z = PLACE_LPS
    assert focus_mm_RAS(store, dispute) == pytest.approx((-x, -y, z))
