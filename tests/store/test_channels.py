"""Cases of several registered images: kept on one grid, by channel, backed up, and refused where one is missing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from apps.settings import Site
from labeling_protocols.backup import back_up, files_of, opened
from labeling_protocols.channels import Channel, ChannelsError, onto_grid
from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.protocol import Protocol, ProtocolError, load_protocol
from labeling_protocols.store import Store, UnknownError
from labeling_protocols.verification import verify
from tests.conftest import OBLIQUE, image_of

SHIPPED = Path(__file__).parents[2] / "labeling_protocols" / "protocols" / "hippocampus.yaml"


@pytest.fixture
def channels(store: Store, protocol: Protocol) -> Protocol:
    """A protocol of two channels beside the one of one."""
    two = replace(protocol, name="tumour", channels=("T1", "FLAIR"))
    store.add_protocol(two)
    return two


def flair(seed: int = 2, geometry: Geometry = OBLIQUE, **told: object) -> Channel:
    return Channel(name="FLAIR", volume=image_of(seed, geometry), **told)  # type: ignore[arg-type]


def test_a_case_keeps_its_channels_on_the_firsts_grid(store: Store, channels: Protocol) -> None:
    case, is_new = store.add_case(
        protocol="tumour", patient="P1", volume=image_of(1), modality="MR", channels=[flair(series="1.2.3")]
    )
    assert is_new
    assert (case.channels, case.channel_series, case.resampled) == (("FLAIR",), ("1.2.3",), ())
    assert store.cases("tumour") == [case]
    first, second = store.channels(case)
    assert np.array_equal(first.array_ZYX, image_of(1).array_ZYX)
    assert np.array_equal(second.array_ZYX, image_of(2).array_ZYX)
    assert first.geometry == second.geometry
    assert np.array_equal(store.image(case).array_ZYX, first.array_ZYX)
    assert len({case.digest, *case.images}) == 3
    assert store.image_path(case, "T1") == store.image_path(case) != store.image_path(case, "FLAIR")
    with pytest.raises(UnknownError, match="no such channel; it has T1, FLAIR"):
        store.image_path(case, "T2")


def test_a_case_of_one_image_is_named_by_it_as_ever(store: Store) -> None:
    case, _ = store.add_case(protocol="hippocampus", patient="P1", volume=image_of(1), modality="MR")
    assert (case.channels, case.digest, case.images) == ((), case.image, (case.image,))
    [only] = store.channels(case)
    assert np.array_equal(only.array_ZYX, store.image(case).array_ZYX)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "it lacks channel FLAIR"),
        ([Channel(name="T2", volume=image_of(2)), flair()], "it has channel T2; expected FLAIR"),
        ([flair(), flair(3)], "more than one image is channel FLAIR"),
        ([flair(geometry=replace(OBLIQUE, origin_mm_LPS=(0.0, 0.0, 0.0)))], "FLAIR does not lie on the first"),
    ],
    ids=["missing", "foreign", "twice", "elsewhere"],
)
def test_other_channels_than_the_protocols_are_refused_by_name(
    store: Store, channels: Protocol, given: list[Channel], words: str
) -> None:
    with pytest.raises(ChannelsError, match=words):
        store.add_case(protocol="tumour", patient="P1", volume=image_of(1), modality="MR", channels=given)
    assert store.cases("tumour") == []
    assert list(store.blobs) == []


def test_a_channel_where_the_protocol_has_one_image_is_refused(store: Store) -> None:
    with pytest.raises(ChannelsError, match="expected one image, without a name"):
        store.add_case(protocol="hippocampus", patient="P1", volume=image_of(1), modality="MR", channels=[flair()])


def test_a_case_from_before_gets_the_channels_its_protocol_asks_for_since(store: Store, protocol: Protocol) -> None:
    case, _ = store.add_case(protocol="hippocampus", patient="P1", volume=image_of(1), modality="MR")
    store.add_protocol(replace(protocol, version=2, channels=("T1", "FLAIR")))
    again, is_new = store.add_case(
        protocol="hippocampus", patient="P1", volume=image_of(1), modality="MR", channels=[flair()]
    )
    assert (again.id, is_new, again.channels) == (case.id, False, ("FLAIR",))
    same, _ = store.add_case(
        protocol="hippocampus", patient="P1", volume=image_of(1), modality="MR", channels=[flair()]
    )
    assert same == again
    with pytest.raises(ChannelsError, match="a case already, with another image as FLAIR"):
        store.add_case(
            protocol="hippocampus", patient="P1", volume=image_of(1), modality="MR", channels=[flair(seed=9)]
        )
    assert store.case(case.id) == again


def test_a_store_knows_its_channels_blobs_and_a_backup_carries_them(
    store: Store, site: Site, channels: Protocol, tmp_path: Path
) -> None:
    case, _ = store.add_case(protocol="tumour", patient="P1", volume=image_of(1), modality="MR", channels=[flair()])
    found = verify(store, site.public_key)
    assert (found.findings, found.leftovers, found.blobs) == ((), 0, 2)
    back_up(store, site.root, tmp_path / "backup", actor="tests")
    assert set(case.images) <= set(opened(tmp_path / "backup").blobs)
    assert files_of(tmp_path / "backup").get(case.channel_images[0]) == store.blobs.get(case.channel_images[0])
    path = store.image_path(case, "FLAIR")
    path.chmod(0o600)
    path.write_bytes(b"damaged")
    assert [case.channel_images[0] in finding.words for finding in verify(store, site.public_key).findings] == [True]


def test_a_channel_on_another_grid_is_resampled_linearly_onto_the_firsts() -> None:
    """A ramp over the patient, drawn on a turned, coarser grid: linear interpolation gives it back exactly."""

    def ramp(geometry: Geometry) -> Volume:
        z, y, x = np.meshgrid(*(np.arange(n) for n in geometry.shape_ZYX), indexing="ij")
        place_mm = np.stack([x, y, z, np.ones_like(x)], axis=-1) @ geometry.affine_LPS().T
        return Volume(array_ZYX=(100 + place_mm[..., :3] @ (1.0, 2.0, -3.0)).astype(np.float32), geometry=geometry)

    middle_mm = OBLIQUE.corners_mm_LPS().mean(axis=0)
    size_XYZ, spacing_mm = np.array((24, 26, 22)), np.array((1.5, 1.25, 2.0))
    axes = np.array([[0.0, 1.0, 0.0], [0.8, 0.0, 0.6], [0.6, 0.0, -0.8]])
    origin = middle_mm - axes @ ((size_XYZ - 1) / 2 * spacing_mm)
    other = Geometry(
        shape_ZYX=(22, 26, 24),
        spacing_mm_XYZ=(1.5, 1.25, 2.0),
        origin_mm_LPS=(float(origin[0]), float(origin[1]), float(origin[2])),
        direction_LPS=tuple(axes.ravel().tolist()),
    )
    moved, resampled = onto_grid(ramp(other), OBLIQUE, "FLAIR")
    assert resampled
    assert moved.geometry == OBLIQUE
    np.testing.assert_allclose(moved.array_ZYX, ramp(OBLIQUE).array_ZYX, atol=1e-3)


def test_a_channel_on_the_same_grid_keeps_its_voxels_and_type() -> None:
    nudged = replace(OBLIQUE, origin_mm_LPS=(-31.0, 12.55, 7.25))
    kept, resampled = onto_grid(image_of(1, nudged), OBLIQUE, "FLAIR")
    assert not resampled
    assert kept.geometry == OBLIQUE
    assert kept.array_ZYX.dtype == np.int16
    assert np.array_equal(kept.array_ZYX, image_of(1).array_ZYX)


def test_what_lies_beyond_a_channel_is_its_lowest_value_and_too_little_of_it_is_refused() -> None:
    grid = Geometry(
        shape_ZYX=(4, 4, 8),
        spacing_mm_XYZ=(1.0, 1.0, 1.0),
        origin_mm_LPS=(0.0, 0.0, 0.0),
        direction_LPS=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    )
    image = Volume(array_ZYX=np.full((4, 4, 8), 7, np.int16), geometry=grid)
    image.array_ZYX[0, 0, 0] = -3
    moved, _ = onto_grid(replace(image, geometry=replace(grid, origin_mm_LPS=(3.0, 0.0, 0.0))), grid, "FLAIR")
    assert np.array_equal(moved.array_ZYX[1], np.tile([-3, -3, -3, 7, 7, 7, 7, 7], (4, 1)))
    with pytest.raises(ChannelsError, match="FLAIR shows 38% of what the first channel shows; at least 50%"):
        onto_grid(replace(image, geometry=replace(grid, origin_mm_LPS=(5.0, 0.0, 0.0))), grid, "FLAIR")


def test_a_protocol_names_its_channels_once(tmp_path: Path) -> None:
    text = SHIPPED.read_text()
    path = tmp_path / "two.yaml"
    path.write_text(text.replace("modality: [MR]", "modality: [MR]\nchannels: [T1, FLAIR]"))
    two = load_protocol(path)
    assert two.channels == ("T1", "FLAIR")
    assert Protocol.from_json(two.as_json()) == two
    assert '"channels"' not in load_protocol(SHIPPED).as_json()
    for wrong, words in (("[T1, T1]", "every name must be used once, found T1 twice"), ("[t 1]", "line 6: channels.0")):
        path.write_text(text.replace("modality: [MR]", f"modality: [MR]\nchannels: {wrong}"))
        with pytest.raises(ProtocolError, match=words):
            load_protocol(path)


def test_itk_reads_what_is_kept_as_it_was(store: Store, channels: Protocol) -> None:
    """A second reader: the further channel's file is a NIfTI volume on the first one's grid."""
    case, _ = store.add_case(protocol="tumour", patient="P1", volume=image_of(1), modality="MR", channels=[flair()])
    path = Path(store.image_path(case, "FLAIR"))
    linked = path.with_name("flair.nii.gz")
    linked.symlink_to(path)
    image = sitk.ReadImage(str(linked))
    assert np.array_equal(sitk.GetArrayFromImage(image), image_of(2).array_ZYX)
