"""The files a dispute's viewer draws from: what is in them, how they travel, and that they say nothing else."""

import gzip

import numpy as np
import pytest
import requests
import zstandard

from labeling_protocols import edits
from labeling_protocols.consensus import form_consensus
from labeling_protocols.label import Label
from labeling_protocols.protocol_parts import ConsensusRule
from labeling_protocols.records import Account, Role
from labeling_protocols.volumes import read_volume_bytes
from tests.annotation.served import Served
from tests.conftest import label_of
from tests.review.conftest import Disputed


def get(served: Served, account: Account, found: Disputed, name: str, **headers: str) -> requests.Response:
    address = f"{served.url}/review/disputes/{found.case.id}/{name}"
    return served.session(account).get(address, headers=headers, stream=True)


def test_outlines_travel_packed_and_unpack_to_the_same_file(
    served: Served, adjudicator: Account, disputed: Disputed
) -> None:
    packed = {
        coding: get(served, adjudicator, disputed, "outlines-readers.nii", **{"Accept-Encoding": coding})
        for coding in ("zstd", "gzip")
    }
    raw = {coding: answer.raw.read(decode_content=False) for coding, answer in packed.items()}
    for coding, answer in packed.items():
        assert answer.headers["content-encoding"] == coding
        assert answer.headers["vary"] == "Accept-Encoding"
    plain = zstandard.ZstdDecompressor().decompress(raw["zstd"], max_output_size=1 << 20)
    assert plain == gzip.decompress(raw["gzip"])
    assert packed["zstd"].headers["etag"] != packed["gzip"].headers["etag"]


@pytest.mark.parametrize("name", ["image.nii", "image.nii.gz", "outlines-readers.nii", "outlines-staple.nii"])
def test_what_a_browser_has_already_is_not_sent_again(
    served: Served, adjudicator: Account, disputed: Disputed, name: str
) -> None:
    first = get(served, adjudicator, disputed, name)
    assert first.headers["cache-control"] == "private, no-cache"
    assert "last-modified" not in first.headers
    again = get(served, adjudicator, disputed, name, **{"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    reads = served.store.reads(disputed.case.id)
    assert not any(read.label[:16] in first.headers["etag"] for read in reads)


def test_the_image_is_sent_as_it_is_stored(served: Served, adjudicator: Account, disputed: Disputed) -> None:
    stored = served.store.image_path(disputed.case).read_bytes()
    answer = get(served, adjudicator, disputed, "image.nii")
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.raw.read(decode_content=False) == stored
    assert get(served, adjudicator, disputed, "image.nii.gz").content == stored


@pytest.mark.parametrize("rule", list(ConsensusRule))
def test_a_consensus_is_what_the_rule_makes_of_the_reads(
    served: Served, adjudicator: Account, disputed: Disputed, rule: ConsensusRule
) -> None:
    content = get(served, adjudicator, disputed, f"consensus-{rule}.nii.gz").content
    labels = {reader: Label.of(volume) for reader, volume in disputed.labels.items()}
    expected = form_consensus(disputed.protocol, labels, rule).label
    np.testing.assert_array_equal(read_volume_bytes(content, ".nii.gz").array_ZYX, expected.array_ZYX)


def test_an_edit_is_its_makers_own(served: Served, adjudicator: Account, disputed: Disputed) -> None:
    for name in ("edit.nii.gz", "outlines-edit.nii"):
        assert get(served, adjudicator, disputed, name).status_code == 404
    edits.begin_edit(served.store, disputed.case.id, adjudicator.id, "consensus:majority")
    edits.save_edit(served.store, disputed.case.id, adjudicator.id, Label.of(label_of(1)))
    content = get(served, adjudicator, disputed, "edit.nii.gz").content
    np.testing.assert_array_equal(read_volume_bytes(content, ".nii.gz").array_ZYX, label_of(1).array_ZYX)
    other = served.account(Role.ADJUDICATOR)
    for name in ("edit.nii.gz", "outlines-edit.nii"):
        assert get(served, other, disputed, name).status_code == 404


@pytest.mark.parametrize(
    "name", ["reader-Z.nii.gz", "outlines-Z.nii", "consensus-mean.nii.gz", "x.nii.gz", "reader.nii.gz"]
)
def test_a_file_that_there_is_not_is_refused_in_words(
    served: Served, adjudicator: Account, disputed: Disputed, name: str
) -> None:
    answer = get(served, adjudicator, disputed, name)
    assert answer.status_code == 404
    assert "there" in answer.json()["detail"]


def test_readers_of_the_case_get_none_of_it(served: Served, disputed: Disputed) -> None:
    reader = disputed.readers[0]
    served.accounts.change(reader.id, actor="tests", roles=frozenset({Role.READER, Role.ADJUDICATOR}))
    for name in ("image.nii", "image.nii.gz", "outlines-readers.nii", "outlines-staple.nii", "reader-A.nii.gz"):
        assert get(served, reader, disputed, name).status_code == 403
