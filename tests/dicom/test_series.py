"""Series become volumes that lie right, or are refused in words."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import Dataset, dcmread

from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.series import Series, SeriesError, read_headers, read_series, scan
from labeling_protocols.series_writer import write_series
from labeling_protocols.stored_series import look_at, read_stored
from tests.conftest import OBLIQUE, image_of
from tests.dicom.examples import ANISOTROPIC, AXIAL, SAGITTAL, dciodvfy_errors, identity_of


def read_by_layout(paths: Sequence[Path]) -> Series:
    """As the endpoint reads what it has just received."""
    stored = read_stored([look_at(path) for path in paths])
    return Series(volume=stored.volume, files=stored.files, sources=read_headers(stored.files))


Reader = Callable[[Sequence[Path]], Series]


@pytest.fixture(params=[read_series, read_by_layout])
def read(request: pytest.FixtureRequest) -> Reader:
    """Both ways to read a series; whatever is said here is true of each."""
    way: Reader = request.param
    return way


GRIDS = {"axial": AXIAL, "anisotropic": ANISOTROPIC, "oblique and flipped": OBLIQUE, "sagittal": SAGITTAL}
Change = Callable[[list[Dataset]], None]


def values_in_the_patient(volume: Volume) -> dict[tuple[float, ...], float]:
    """Value by world coordinate: the same whatever the order and direction of the axes."""
    z, y, x = np.indices(volume.geometry.shape_ZYX).reshape(3, -1)
    points_mm = volume.geometry.affine_LPS() @ np.stack([x, y, z, np.ones_like(x)])
    return {
        tuple(np.round(point, 2) + 0.0): float(value)
        for point, value in zip(points_mm[:3].T, volume.array_ZYX.ravel(), strict=True)
    }


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
@pytest.mark.parametrize("order", [{}, {"flipped": True}, {"shuffle": 4}, {"flipped": True, "shuffle": 5}], ids=str)
def test_voxels_keep_their_place_whatever_the_order_of_slices_and_files(
    read: Reader, grid: Geometry, order: dict[str, int], tmp_path: Path
) -> None:
    image = image_of(1, grid)
    paths = write_series(image, tmp_path, identity_of("order"), **order)  # type: ignore[arg-type]
    found = read(sorted(paths, key=lambda path: hash(path.name)))
    assert values_in_the_patient(found.volume) == values_in_the_patient(image)
    assert found.volume.array_ZYX.dtype == np.int16


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
def test_the_grid_is_the_one_simpleitk_reads(read: Reader, grid: Geometry, tmp_path: Path) -> None:
    write_series(image_of(2, grid), tmp_path, identity_of("itk"), shuffle=1)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    theirs = Volume.from_sitk(reader.Execute())
    ours = read(scan(tmp_path)[0].files).volume
    assert ours.geometry.difference(theirs.geometry) is None
    assert np.array_equal(ours.array_ZYX, theirs.array_ZYX)


def test_the_sources_come_in_the_order_of_the_volume_and_without_pixels(read: Reader, tmp_path: Path) -> None:
    write_series(image_of(3, AXIAL), tmp_path, identity_of("sources"), shuffle=2)
    found = read(scan(tmp_path)[0].files)
    assert [float(source.ImagePositionPatient[2]) for source in found.sources] == [0, 1, 2, 3, 4]
    assert all("PixelData" not in source for source in found.sources)
    assert [str(dcmread(path).SOPInstanceUID) for path in found.files] == [s.SOPInstanceUID for s in found.sources]


@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_large_and_fractional_values_come_back_within_a_step_of_sixteen_bits(
    read: Reader, modality: str, tmp_path: Path
) -> None:
    values = np.random.default_rng(5).uniform(-3.5, 1_700_000, AXIAL.shape_ZYX).astype(np.float32)
    paths = write_series(Volume(array_ZYX=values, geometry=AXIAL), tmp_path, identity_of("rescale"), modality=modality)
    volume = read(paths).volume
    assert volume.array_ZYX.dtype == np.float32
    assert np.abs(volume.array_ZYX.astype(np.float32) - values).max() <= 0.51 * 1_700_004 / 2**15
    assert dciodvfy_errors(paths[0]) == []


def test_slices_with_their_own_rescale_are_each_rescaled_by_it(read: Reader, tmp_path: Path) -> None:
    image = Volume(array_ZYX=np.full(AXIAL.shape_ZYX, 10, np.int16), geometry=AXIAL)
    paths = write_series(image, tmp_path, identity_of("own"))
    edit(paths, lambda slices: setattr_all(slices[1:2], RescaleSlope=2, RescaleIntercept=-5))
    assert read(paths).volume.array_ZYX[:, 0, 0].tolist() == [10, 15, 10, 10, 10]


def test_spacing_comes_from_positions_and_not_from_the_headers_claims(read: Reader, tmp_path: Path) -> None:
    paths = write_series(image_of(6, ANISOTROPIC), tmp_path, identity_of("lies"))
    edit(paths, lambda slices: setattr_all(slices, SliceThickness=1, SpacingBetweenSlices=1.6))
    assert read(paths).volume.geometry.spacing_mm_XYZ == pytest.approx((0.7, 1.3, 4.0))


@pytest.mark.parametrize(
    ("stored", "bits", "signed", "expected"),
    [
        ([0, 1, 4094, 4095], 12, False, [-1024, -1023, 3070, 3071]),
        ([0x0000, 0x0001, 0x0FFF, 0x0800], 12, True, [-1024, -1023, -1025, -3072]),  # padded with zeros
        ([0x0000, 0x0001, 0xFFFF, 0xF800], 12, True, [-1024, -1023, -1025, -3072]),  # padded with the sign
        ([0, 1, 65534, 65535], 16, False, [-1024, -1023, 64510, 64511]),
        ([0x8000, 0x7FFF, 0, 1], 16, True, [-33792, 31743, -1024, -1023]),
    ],
    ids=["12 bits", "12 bits, sign cut", "12 bits, sign kept", "16 bits", "16 bits with sign"],
)
def test_stored_bits_become_the_values_they_say(
    read: Reader, stored: list[int], bits: int, *, signed: bool, expected: list[int], tmp_path: Path
) -> None:
    pixels = np.resize(np.array(stored, "<u2"), AXIAL.shape_ZYX[1:])
    paths = write_series(image_of(1, AXIAL), tmp_path, identity_of("bits"))
    values = {"BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": int(signed), "RescaleIntercept": -1024}
    edit(paths, lambda slices: setattr_all(slices, **values, RescaleSlope=1, PixelData=pixels.tobytes()))
    volume = read(paths).volume
    assert volume.array_ZYX[2].ravel()[:4].tolist() == expected
    assert volume.array_ZYX.dtype == (np.int16 if max(map(abs, expected)) < 2**15 else np.int32)


def test_a_copy_of_a_slice_counts_once(tmp_path: Path) -> None:
    paths = write_series(image_of(7, AXIAL), tmp_path, identity_of("copies"))
    copy = tmp_path / "copy"
    copy.write_bytes(paths[2].read_bytes())
    assert read_series([*paths, copy]).volume.geometry.shape_ZYX == AXIAL.shape_ZYX


def test_a_scan_finds_series_by_content_and_not_by_file_name(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_series(image_of(8, AXIAL), tmp_path / name, identity_of(name))
    for path in (tmp_path / "one").iterdir():
        path.rename(path.with_suffix(""))
    (tmp_path / "two" / "notes.dcm").write_text("no DICOM at all")
    (tmp_path / "two" / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\x02\0\x10\0UI\xff\xff")
    assert sorted(len(series.files) for series in scan(tmp_path)) == [5, 5]


def move(index: int, by_mm: tuple[float, float, float]) -> Change:
    def change(slices: list[Dataset]) -> None:
        image = slices[index]
        image.ImagePositionPatient = [float(v) + d for v, d in zip(image.ImagePositionPatient, by_mm, strict=True)]

    return change


def tilt(slices: list[Dataset]) -> None:
    for k in range(len(slices)):
        move(k, (0.0, 0.2 * k, 0.0))(slices)


def take_away(*keywords: str) -> Change:
    def change(slices: list[Dataset]) -> None:
        for keyword in keywords:
            del slices[-1][keyword]

    return change


def make(**elements: object) -> Change:
    return lambda slices: setattr_all(slices[:1], **elements)


REFUSED: dict[str, tuple[Change, str]] = {
    "a missing slice": (lambda slices: slices.pop(2) and None, "missing slice: 1 or more between 1.0 and 3.0 mm"),
    "uneven spacing": (move(2, (0, 0, 0.4)), "uneven spacing: gaps from 0.60 to 1.40 mm"),
    "a tilted gantry": (tilt, "drift 0.8 mm sideways, 11.3°"),
    "mixed orientations": (make(ImageOrientationPatient=[0, 1, 0, 0, 0, 1]), "mixed orientations: 4 of 5"),
    "two slices at one place": (move(1, (0, 0, 1.0)), "share a place"),
    "a slice of another size": (make(Rows=6), "2 different image heights"),
    "another pixel spacing": (make(PixelSpacing=[1, 1.2]), "different Pixel Spacings"),
    "a spacing of zero": (make(PixelSpacing=[0, 1]), "Pixel Spacing must be positive"),
    "another frame of reference": (make(FrameOfReferenceUID="1.2.3"), "different frames of reference"),
    "no pixel data": (take_away("PixelData"), "an object without pixel data"),
    "no position": (take_away("ImagePositionPatient"), "a slice lacks ImagePositionPatient"),
    "no orientation and no spacing": (
        take_away("ImageOrientationPatient", "PixelSpacing"),
        "a slice lacks ImageOrientationPatient, PixelSpacing",
    ),
    "a position of two numbers": (make(ImagePositionPatient=[1, 2]), "has 2 usable values, 3 finite numbers"),
    "skewed directions": (
        lambda slices: setattr_all(slices, ImageOrientationPatient=[1, 0, 0, 0.6, 0.8, 0]),
        "no pair of unit vectors at right angles",
    ),
    "several frames": (make(NumberOfFrames=3), "a multi-frame object with 3 frames"),
    "colour": (make(SamplesPerPixel=3, PhotometricInterpretation="RGB"), "photometric interpretation RGB"),
    "inverted grey": (make(PhotometricInterpretation="MONOCHROME1"), "photometric interpretation MONOCHROME1"),
    "cut pixel data": (lambda slices: setattr_all(slices[:1], PixelData=b"\0\0"), "cannot be decoded"),
    "one slice": (lambda slices: slices.__delitem__(slice(1, None)), "one slice is no volume"),
}


@pytest.mark.parametrize(("change", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_a_series_that_is_no_regular_volume_is_refused_with_the_reason(
    read: Reader, change: Change, words: str, tmp_path: Path
) -> None:
    paths = write_series(image_of(9, AXIAL), tmp_path, identity_of("refused"))
    with pytest.raises(SeriesError) as refusal:
        read(edit(paths, change))
    assert words in str(refusal.value)
    assert "Roe" not in str(refusal.value)
    assert "ID-refused" not in str(refusal.value)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("mr_brain_dicom/PGBM-003_SIEMENS_T1post", ((22, 320, 280), (0.6875, 0.6875, 6.5))),
        ("mr_brain_dicom/PGBM-002_HCropVolume", ((32, 51, 35), (1, 1, 1))),
        ("lidc_0003/dicom", ((33, 512, 512), (0.820312, 0.820312, 2.5))),
        ("deid/mr_series", ((26, 256, 256), (1.367188, 1.367188, 9.6))),  # SpacingBetweenSlices says 1.6
    ],
)
def test_real_series_lie_where_simpleitk_puts_them(
    read: Reader, folder: str, expected: tuple[tuple[int, ...], tuple[float, ...]], real_data: Path
) -> None:
    (found,) = scan(real_data / folder)
    volume = read(found.files).volume
    assert volume.geometry.shape_ZYX == expected[0]
    assert volume.geometry.spacing_mm_XYZ == pytest.approx(expected[1], rel=1e-4)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(real_data / folder)))
    theirs = Volume.from_sitk(reader.Execute())
    assert volume.geometry.difference(theirs.geometry) is None
    assert np.array_equal(volume.array_ZYX, theirs.array_ZYX)


@pytest.mark.real_data
def test_enhanced_multi_frame_objects_are_refused_by_name(read: Reader, real_data: Path) -> None:
    for found in scan(real_data / "enhanced_multiframe"):
        with pytest.raises(SeriesError, match="Enhanced MR Image Storage: a multi-frame object with"):
            read(found.files)


@pytest.mark.real_data
@pytest.mark.parametrize("codec", ["MR1_JLSL", "MR1_J2KR", "MR1_JPLL", "MR1_RLE"])
def test_lossless_codecs_give_the_voxels_of_the_uncompressed_slice(
    read: Reader, codec: str, real_data: Path, tmp_path: Path
) -> None:
    def stack(name: str) -> Volume:
        paths = []
        for k in range(2):
            image = dcmread(real_data / "codecs" / name)
            image.ImageOrientationPatient, image.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, k]
            image.PixelSpacing, image.SOPInstanceUID = [1, 1], f"1.2.{k}"
            paths.append(tmp_path / f"{name}{k}")
            image.save_as(paths[-1])
        return read(paths).volume

    assert np.array_equal(stack(codec).array_ZYX, stack("MR1_UNC.dcm").array_ZYX)


def setattr_all(images: list[Dataset], **elements: object) -> None:
    for image in images:
        for keyword, value in elements.items():
            setattr(image, keyword, value)


def edit(paths: list[Path], change: Change) -> list[Path]:
    """Change written slices in place; returns the paths of those that are left."""
    slices = [dcmread(path) for path in paths]
    left = list(slices)
    change(left)
    kept = [path for path, image in zip(paths, slices, strict=True) if any(image is other for other in left)]
    for path, image in zip(paths, slices, strict=True):
        image.save_as(path)
    return kept
