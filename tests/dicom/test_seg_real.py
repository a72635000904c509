"""Every segmentation of other makers at hand, voxel by voxel against its NRRD reference or a second reader."""

from collections.abc import Mapping
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import Dataset, dcmread

from labeling_protocols.dicom_seg import SegError, label_from_seg, read_seg
from labeling_protocols.dicom_seg_file import seg_from_bytes
from labeling_protocols.dicom_seg_reading import Fraction
from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.series import read_series, scan
from tests.dicom.examples import protocol_of

pytestmark = pytest.mark.real_data

_DCMQI = "seg_interop/dcmqi/segmentations"
_HIGHDICOM = "seg_interop/highdicom"
_REPORTING = "seg_interop/quantitativereporting"

# The file, the slices or the multi-frame image it is of, and which value of which NRRD is which segment.
REFERENCES: Mapping[str, tuple[str, str, Mapping[str, Mapping[int, int]]]] = {
    "liver by dcmqi": ("liver.dcm", "ct-3slice", {"liver_seg.nrrd": {1: 1}}),
    "overlapping": (
        "partial_overlaps.dcm",
        "ct-3slice",
        {
            "partial_overlaps-1.nrrd": {1: 1, 4: 4, 5: 5},
            "partial_overlaps-2.nrrd": {2: 2},
            "partial_overlaps-3.nrrd": {3: 3},
        },
    ),
    "rows of no whole bytes": ("23x38x3/seg/label.seg", "23x38x3/image", {"23x38x3/nrrd/label.nrrd": {1: 1}}),
    "rows of whole bytes": ("24x38x3/seg/label.seg", "24x38x3/image", {"24x38x3/nrrd/label.nrrd": {1: 1}}),
    "23 onto a multi-frame image": (
        "23x38x3/seg/label.seg",
        "23x38x3/multiframe",
        {"23x38x3/nrrd/label.nrrd": {1: 1}},
    ),
    "24 onto a multi-frame image": (
        "24x38x3/seg/label.seg",
        "24x38x3/multiframe",
        {"24x38x3/nrrd/label.nrrd": {1: 1}},
    ),
    "label map, a slice left out": (
        "sparse-labelmap-noppv.dcm",
        "24x38x3/image",
        {"sparse_labelmap_noppv_seg.nrrd": {1: 1}},
    ),
    "label map whose background is 5": (
        "sparse-labelmap-ppv5.dcm",
        "24x38x3/image",
        {"sparse_labelmap_ppv5_seg.nrrd": {1: 1}},
    ),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_a_segmentation_is_its_reference_voxel_by_voxel(name: str, real_data: Path) -> None:
    file, images, references = REFERENCES[name]
    folder = real_data / _DCMQI
    seg = seg_from_bytes((folder / file).read_bytes())
    found = read_seg(seg, protocol_of(seg), sources_in(folder / images))
    assert (found.empty, found.unstated, found.frames_of_others) == ((), (), 0)
    for reference, values in references.items():
        volume = Volume.from_sitk(sitk.ReadImage(str(folder / reference)))
        assert found.label.geometry.difference(volume.geometry, tolerance_mm=0.001) is None
        for value, segment in values.items():
            assert np.array_equal(found.label.mask_ZYX(segment), volume.array_ZYX == value)
            assert (volume.array_ZYX == value).any()


@pytest.mark.parametrize(("file", "voxels"), [("syngo.seg.dcm", 46), ("slicer_reporting_seg.dcm", 104500)])
def test_syngo_and_early_slicer_lie_on_the_slices_at_their_frames_places(
    file: str, voxels: int, real_data: Path
) -> None:
    """One codes nothing, puts everything into each frame and lists its frames upside down against the series' files;
    the other has a frame of reference of its own."""
    ct = read_series(scan(real_data / _REPORTING / "ct")[0].files)
    seg = seg_from_bytes((real_data / _REPORTING / "seg" / file).read_bytes())
    label = label_from_seg(seg, protocol_of(seg), ct.sources)
    heights_mm = [float(source.ImagePositionPatient[2]) for source in ct.sources]
    for frame_YX, groups in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        z = heights_mm.index(float(groups.PlanePositionSequence[0].ImagePositionPatient[2]))
        assert np.array_equal(label.array_ZYX[z], frame_YX)
    assert np.count_nonzero(label.array_ZYX) == voxels


@pytest.mark.parametrize(
    ("file", "threshold"),
    [
        (f"{_HIGHDICOM}/seg_image_ct_binary.dcm", 1),
        (f"{_HIGHDICOM}/seg_image_ct_binary_overlap.dcm", 1),
        (f"{_HIGHDICOM}/seg_image_ct_binary_fractional.dcm", 0.5),
        (f"{_HIGHDICOM}/seg_image_ct_true_fractional.dcm", 0.5),
        ("seg_interop/dcmqi/sr-example/seg.dcm", 1),
    ],
)
def test_a_segmentation_without_its_series_lands_on_a_bare_grid_as_highdicom_reads_it(
    file: str, threshold: float, real_data: Path
) -> None:
    """64 and 128 of 255 are the two values of the true fractional one: only the second is half or more."""
    seg = seg_from_bytes((real_data / file).read_bytes())
    theirs = hd.seg.Segmentation.from_dataset(dcmread(real_data / file))
    grid, heights_mm = grid_around(seg)
    found = read_seg(seg, protocol_of(seg), grid)
    for number in theirs.segment_numbers:
        expected = np.zeros(grid.shape_ZYX, bool)
        for index, groups in enumerate(seg.PerFrameFunctionalGroupsSequence):
            if int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber) == number:
                z = heights_mm.index(float(groups.PlanePositionSequence[0].ImagePositionPatient[2]))
                expected[z] = theirs.get_frame(index + 1) / int(seg.get("MaximumFractionalValue", 1)) >= threshold
        assert expected.any()
        assert np.array_equal(found.label.mask_ZYX(number), expected)
    assert found.fraction == (Fraction.PROBABILITY if threshold < 1 else None)


def test_a_nrrd_file_called_dcm_is_no_segmentation(real_data: Path) -> None:
    with pytest.raises(SegError, match="not DICOM"):
        seg_from_bytes((real_data / _REPORTING / "seg" / "slicer.seg.dcm").read_bytes())


@pytest.mark.parametrize("file", ["sr-example/sr.dcm", "segmentations/ct-3slice/01.dcm"])
def test_another_object_is_named_and_refused(file: str, real_data: Path) -> None:
    with pytest.raises(SegError, match=r"found (CT Image|Comprehensive SR) Storage"):
        seg_from_bytes((real_data / "seg_interop" / "dcmqi" / file).read_bytes())


@pytest.mark.filterwarnings("ignore:The string .ROGERS:UserWarning")  # highdicom's, of the operator's name
def test_frames_of_two_volumes_in_one_object_are_one_grid(real_data: Path, tmp_path: Path) -> None:
    """A Philips object of 64 frames at 32 places; a segment is drawn by highdicom on places 3 to 5."""
    image = dcmread(real_data / "enhanced_multiframe" / "Philips_Achieva_B0_64frames.dcm")
    places = [groups.PlanePositionSequence[0] for groups in image.PerFrameFunctionalGroupsSequence]
    turned = (
        image.SharedFunctionalGroupsSequence[0].get("PlaneOrientationSequence")
        or image.PerFrameFunctionalGroupsSequence[0].PlaneOrientationSequence
    )[0].ImageOrientationPatient
    normal = np.cross(np.array(turned[:3], float), np.array(turned[3:], float))
    along_mm = {tuple(map(float, p.ImagePositionPatient)): np.dot(p.ImagePositionPatient, normal) for p in places}
    ordered = sorted(along_mm, key=along_mm.__getitem__)
    assert len(ordered) == 32
    # highdicom looks for these where they are shared only.
    own, shared = image.PerFrameFunctionalGroupsSequence[0], image.SharedFunctionalGroupsSequence[0]
    for keyword in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
        setattr(shared, keyword, own[keyword].value)
    mask = np.zeros((32, int(image.Rows), int(image.Columns)), np.uint8)
    mask[3, 10:20, 30:34] = mask[5, 40:42, 7:9] = 1
    seg = hd.seg.Segmentation(
        source_images=[image],
        pixel_array=mask,
        plane_positions=[hd.PlanePositionSequence("PATIENT", place) for place in ordered],
        segmentation_type="BINARY",
        segment_descriptions=[
            hd.seg.SegmentDescription(
                1,
                "Nodule",
                hd.sr.CodedConcept("123037004", "SCT", "x"),
                hd.sr.CodedConcept("27925004", "SCT", "x"),
                "MANUAL",
            )
        ],
        series_instance_uid="1.2.3",
        series_number=1,
        sop_instance_uid="1.2.3.4",
        instance_number=1,
        manufacturer="x",
        manufacturer_model_name="x",
        software_versions="1",
        device_serial_number="1",
    )
    assert np.array_equal(label_from_seg(seg, protocol_of(seg), [image]).array_ZYX, mask)


def sources_in(folder: Path) -> list[Dataset]:
    files = list(folder.iterdir())
    return [dcmread(files[0])] if len(files) == 1 else list(read_series(scan(folder)[0].files).sources)


def grid_around(seg: Dataset) -> tuple[Geometry, list[float]]:
    """The axial grid of a segmentation's frames, the slices it leaves out among them, and the heights of its slices."""
    first = seg.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient
    heights = sorted(
        {float(g.PlanePositionSequence[0].ImagePositionPatient[2]) for g in seg.PerFrameFunctionalGroupsSequence}
    )
    pitch_mm = round(min(np.diff(heights)), 6)
    slices = round((heights[-1] - heights[0]) / pitch_mm) + 1
    row_mm, column_mm = (
        float(mm) for mm in seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    )
    grid = Geometry(
        shape_ZYX=(slices, int(seg.Rows), int(seg.Columns)),
        spacing_mm_XYZ=(column_mm, row_mm, pitch_mm),
        origin_mm_LPS=(float(first[0]), float(first[1]), heights[0]),
        direction_LPS=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    )
    numbered = {round((height - heights[0]) / pitch_mm): height for height in heights}
    return grid, [numbered.get(z, float("nan")) for z in range(slices)]
