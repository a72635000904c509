"""Files that are more than they seem: refused in words before anything large is made, and never read from elsewhere."""

import bz2
import gzip
import json
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import requests

from labeling_protocols.bounded_files import require_bounded, uploaded_suffix
from labeling_protocols.volumes import UnreadableVolumeError, volume_bytes
from tests.annotation.served import serving
from tests.conftest import OBLIQUE, image_of, label_of
from tests.hostile.conftest import Besieged

VOXELS = 2 * 480
GIGABYTES_4 = 4 << 30


def nifti(sizes: tuple[int, ...], *, bits: int = 8, offset: float = 352.0, magic: bytes = b"n+1\0") -> bytes:
    """A NIfTI-1 header, which says what it likes."""
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, len(sizes), *sizes, *([1] * (7 - len(sizes))))
    struct.pack_into("<hh", head, 70, 2, bits)
    struct.pack_into("<8f", head, 76, *([1.0] * 8))
    struct.pack_into("<f", head, 108, offset)
    head[344:348] = magic
    return bytes(head)


def zeros(count: int) -> bytes:
    """A gzip file of so many zeros: a thousandth of them."""
    packer, piece = zlib.compressobj(9, wbits=31), bytes(1 << 24)
    return b"".join([*(packer.compress(piece) for _ in range(count >> 24)), packer.flush()])


def nrrd_file(fields: str, body: bytes = b"") -> bytes:
    return b"NRRD0004\n" + fields.encode() + b"\n\n" + body


PLAIN = "type: uchar\ndimension: 3\nsizes: 8 10 6\nspace: left-posterior-superior\n"
PLACED = "space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\n"
SEGMENT = "Segment0_Name:=anterior\nSegment0_LabelValue:=1\nSegment0_Layer:=0\n"

BAD = {
    "NIfTI that says it holds terabytes": (gzip.compress(nifti((32767, 32767, 32767))), ".nii.gz", "voxels"),
    "NIfTI of too many small axes": (gzip.compress(nifti((100, 100, 100, 100, 100))), ".nii.gz", "voxels"),
    "NIfTI with its voxels far away": (gzip.compress(nifti((8, 10, 6), offset=2e9)), ".nii.gz", "damaged"),
    "NIfTI with its voxels nowhere": (gzip.compress(nifti((8, 10, 6), offset=float("nan"))), ".nii.gz", "damaged"),
    "NIfTI with negative sizes": (gzip.compress(nifti((8, -10, -6))), ".nii.gz", "no sizes"),
    "NIfTI of two files": (nifti((8, 10, 6), magic=b"ni1\0"), ".nii", "one file"),
    "Analyze": (nifti((8, 10, 6), magic=b"\0\0\0\0"), ".nii", "one file"),
    "NRRD that says it holds terabytes": (
        nrrd_file("type: double\ndimension: 3\nsizes: 99999 99999 99999\nencoding: gzip"),
        ".nrrd",
        "voxels",
    ),
    "NRRD whose data lie elsewhere": (nrrd_file(f"{PLAIN}encoding: raw\ndata file: canary.txt"), ".nrrd", "elsewhere"),
    "NRRD whose data lie in a list": (
        nrrd_file(f"{PLAIN}encoding: raw\nDatafile: LIST\n/etc/passwd"),
        ".nrrd",
        "damaged",
    ),
    "NRRD that skips": (nrrd_file(f"{PLAIN}encoding: raw\nbyte skip: -1"), ".nrrd", "elsewhere"),
    "NRRD with two sizes": (nrrd_file(f"{PLAIN}encoding: raw\nsizes: 9999 9999 9999", bytes(480)), ".nrrd", "twice"),
    "NRRD of text": (nrrd_file(f"{PLAIN}encoding: ascii", b"0 " * 480), ".nrrd", "encoding"),
    "NRRD without data": (b"NRRD0004\n" + PLAIN.encode(), ".nrrd", "no data"),
    "NRRD of blocks": (nrrd_file("type: block\ndimension: 1\nsizes: 4\nblock size: 9\nencoding: raw"), ".nrrd", "type"),
    "segments that unpack to gigabytes": (
        nrrd_file(f"{PLAIN}{PLACED}encoding: gzip\n{SEGMENT[:-1]}", zeros(1 << 28)),
        ".nrrd",
        "more than its header says",
    ),
    "segments packed twice over": (
        nrrd_file(f"{PLAIN}{PLACED}encoding: bzip2\n{SEGMENT[:-1]}", bz2.compress(bytes(1 << 24))),
        ".nrrd",
        "more than its header says",
    ),
    "a header of another kind": (b"ObjectType = Image\nElementDataFile = /etc/passwd\n", ".mha", "expected a volume"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bomb_is_refused_in_words_before_it_is_opened(what: str) -> None:
    content, suffix, words = BAD[what]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UnreadableVolumeError, match=words):
        require_bounded(content, suffix, VOXELS)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd"])
@pytest.mark.parametrize("volume", [label_of(), image_of(1)], ids=["label", "image"])
def test_an_honest_file_passes(suffix: str, volume: object) -> None:
    require_bounded(volume_bytes(volume, suffix), suffix, VOXELS)  # type: ignore[arg-type]
    with pytest.raises(UnreadableVolumeError, match="480 voxels; at most 479"):
        require_bounded(volume_bytes(volume, suffix), suffix, 479)  # type: ignore[arg-type]


def test_a_suffix_is_taken_from_a_names_end_only() -> None:
    names = ("a.nrrd", "A.SEG.NRRD", "x.nii.gz", "../x.nii", "x.nhdr", "x.nrrd.exe", "x", "")
    assert [uploaded_suffix(name) for name in names] == [".nrrd", ".seg.nrrd", ".nii.gz", ".nii", "", "", "", ""]


@pytest.mark.parametrize("what", BAD)
def test_no_way_in_takes_a_bomb(besieged: Besieged, what: str) -> None:
    content, suffix, _ = BAD[what]
    served, case = besieged.served, besieged.cases[1]
    for name in (f"label{suffix}", f"label.seg{suffix}"):
        for method, path, field in (
            ("PUT", f"/datastore/label?image={case.id}", "label"),
            ("PUT", "/session/", "file"),
            ("POST", "/infer/hippocampus", "file"),
        ):
            files = {field: (name, content)}
            answer = requests.request(
                method, served.url + path, files=files, headers=besieged.headers("reader"), timeout=30
            )
            besieged.check(answer)
            assert answer.status_code >= 400, answer.text
    assert served.store.reads(case.id) == []


def test_a_gzip_file_of_zeros_without_end_costs_no_memory(besieged: Besieged) -> None:
    """4 GB in 4 MB, behind an honest header: only as much is read as the header says."""
    bomb = gzip.compress(nifti((8, 10, 6))) + zeros(GIGABYTES_4 >> 4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = requests.put(
        f"{besieged.served.url}/datastore/label?image={besieged.cases[1].id}",
        files={"label": ("label.nii.gz", bomb)},
        headers=besieged.headers("reader"),
        timeout=30,
    )
    besieged.check(answer)
    assert answer.status_code == 422
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_markups_have_their_bounds(besieged: Besieged) -> None:
    url = f"{besieged.served.url}/datastore/label?image={besieged.cases[1].id}"
    for content in (
        b"[" * 100_000,
        b'{"markups": []}' + b" " * (5 << 20),
        b"\xff\xfe",
        json.dumps({"markups": [{}]}).encode(),
    ):
        files = {"label": ("R.mrk.json", content)}
        answer = requests.put(url, files=files, headers=besieged.headers("reader"), timeout=30)
        besieged.check(answer)
        assert answer.status_code == 422, answer.text


# The size of a request


def test_a_stranger_sends_no_volume(besieged: Besieged) -> None:
    for path in (
        "/session/",
        f"/datastore/label?image={besieged.cases[0].id}",
        "/auth/token",
        "/activelearning/worklist",
    ):
        method = "PUT" if path.startswith(("/session", "/datastore")) else "POST"
        answer = requests.request(method, besieged.served.url + path, data=bytes(2 << 20), timeout=30)
        assert (answer.status_code, "larger than the 1 MB" in answer.json()["detail"]) == (413, True), answer.text


def test_a_body_is_counted_as_it_comes_where_no_length_is_told(besieged: Besieged) -> None:
    def pieces() -> object:
        for _ in range(40):
            yield bytes(1 << 16)

    address = f"{besieged.served.url}/activelearning/worklist"
    headers = {**besieged.headers("reader"), "content-type": "application/json"}
    answer = requests.post(address, data=pieces(), headers=headers, timeout=30)  # type: ignore[arg-type]
    assert (answer.status_code, "larger than the 1 MB" in answer.json()["detail"]) == (413, True), answer.text


def test_a_site_says_how_large_an_upload_may_be(tmp_path: Path) -> None:
    with serving(tmp_path / "site", settings="[web]\nupload_max_mb = 2\nupload_max_voxels = 479\n") as served:
        session = served.session(served.account())
        image = {"file": ("image.nrrd", volume_bytes(image_of(1), ".nrrd"))}
        answer = session.put(f"{served.url}/session/", files=image)
        assert (answer.status_code, "480 voxels; at most 479" in answer.json()["detail"]) == (422, True), answer.text
        answer = session.put(f"{served.url}/session/", data=bytes(3 << 20))
        assert (answer.status_code, "larger than the 2 MB" in answer.json()["detail"]) == (413, True), answer.text


@pytest.mark.parametrize("what", ["files", "fields", "a long field"])
def test_a_form_has_few_parts(besieged: Besieged, what: str) -> None:
    case = besieged.cases[1].id
    label = ("label", ("label.nrrd", volume_bytes(label_of(), ".nrrd")))
    files = [label] + ([("more", ("x", b"x"))] * 20 if what == "files" else [])
    data = {f"field{number}": "x" for number in range(100)} if what == "fields" else {}
    if what == "a long field":
        data = {"params": "x" * (5 << 20)}
    answer = requests.put(
        f"{besieged.served.url}/datastore/label?image={case}",
        files=files,
        data=data,
        headers=besieged.headers("reader"),
        timeout=30,
    )
    besieged.check(answer)
    assert answer.status_code in (400, 413), answer.text
    assert besieged.served.store.reads(case) == []


def test_a_nrrd_beside_a_canary_reads_no_canary(besieged: Besieged, tmp_path: Path) -> None:
    """Whatever its data file is called, and however the path is written."""
    for name in ("canary.txt", "../canary.txt", str(besieged.around / "canary.txt"), "%03d 1 2 1", "LIST"):
        content = nrrd_file(f"{PLAIN}{PLACED}encoding: raw\ndata file: {name}")
        answer = requests.put(
            f"{besieged.served.url}/session/",
            files={"file": ("image.nrrd", content)},
            headers=besieged.headers("reader"),
            timeout=30,
        )
        besieged.check(answer)
        assert answer.status_code == 422


def test_the_header_of_an_honest_nifti_is_where_it_is_looked_for() -> None:
    """Against what SimpleITK writes, so that the bounds are those of the file and not of a guess."""
    content = volume_bytes(label_of(), ".nii")
    assert struct.unpack_from("<8h", content, 40)[1:4] == OBLIQUE.shape_ZYX[::-1]
    assert int(np.prod(OBLIQUE.shape_ZYX)) == 480
