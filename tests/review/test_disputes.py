"""Disputes without a server: what is shown of one that is not about voxels."""

from dataclasses import replace
from itertools import combinations

import pytest

from apps.accounts import Accounts
from apps.review.disputes import find_dispute
from apps.review.focus import focus_mm_RAS
from labeling_protocols.label import Box, Label
from labeling_protocols.protocol import SHIPPED, Protocol, load_protocol
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


def test_of_reasons_in_the_same_words_the_letters_say_which_stands_first(
    store: Store, accounts: Accounts, protocol: Protocol
) -> None:
    """Two readers drew one thing and two another: four pairs differ alike, and account ids would put them in order."""
    store.add_protocol(replace(protocol, name="four", readers_per_case=4))
    case, _ = store.add_case(protocol="four", patient="P1", volume=image_of(1), modality="MR")
    for number, shift in enumerate((0, 3, 3, 0)):
        reader = accounts.add(f"reader{number}", "long-password", frozenset({Role.READER}))
        assert next_case(store, "four", reader.id) == case
        store.save_read(case_id=case.id, reader=reader.id, label=Label.of(label_of(shift)))
    adjudicator = accounts.add("judge", "long-password", frozenset({Role.ADJUDICATOR}))
    drawn = {read.id: read.label for read in store.reads(case.id)}
    seen = set()
    for secret in (b"one", b"two", b"three", b"four"):
        dispute = find_dispute(store, secret, case.id, adjudicator)
        label = {letter: drawn[read.id] for letter, read in dispute.reads.items()}
        differ = [f"(reader {a} and reader {b})" for a, b in combinations("ABCD", 2) if label[a] != label[b]]
        for structure in ("anterior", "posterior"):
            told = [reason for reason in dispute.reasons() if reason.startswith(f"{structure}: Dice")]
            assert [reason[reason.index("(") :] for reason in told] == differ
        seen.add(tuple(read.reader for read in dispute.reads.values()))
    assert len(seen) > 1  # who is A differs
