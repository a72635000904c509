"""What a viewer wrote becomes the label it shows, what we write comes back, and what fits no protocol is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.label import Box, Label, LabelError, Point
from labeling_protocols.label_files import LabelFormat, read_label, write_label
from labeling_protocols.protocol import SHIPPED, Protocol, load_protocol
from labeling_protocols.volumes import UnreadableVolumeError, write_volume
from tests.conftest import OBLIQUE, label_of


@pytest.fixture(scope="module")
def abdomen() -> Protocol:
    return load_protocol(SHIPPED / "abdomen_ct.yaml")


@pytest.fixture(scope="module")
def lung() -> Protocol:
    return load_protocol(SHIPPED / "lung_nodule.yaml")


def overlapping(protocol: Protocol) -> Label:
    """A tumour that lies in the liver, and sticks out of it."""
    layers = np.zeros((2, *OBLIQUE.shape_ZYX), np.uint8)
    layers[0, 1:5, 1:5, 1:5] = protocol.values["liver"]
    layers[0, 0, 0, 0] = protocol.values["spleen"]
    layers[1, 3:6, 2:4, 2:4] = protocol.values["liver_tumour"]
    return Label(geometry=OBLIQUE, layers_LZYX=layers)


def slicers_file(
    path: Path, layers_LZYX: NDArray[Any], segments: list[dict[str, object]], geometry: Geometry = OBLIQUE
) -> Path:
    """A segmentation as 3D Slicer writes it: always of its own numbers, names and layers."""
    data = layers_LZYX.transpose(0, 3, 2, 1)
    directions = geometry.affine_LPS()[:3, :3].T
    several = len(data) > 1
    header: dict[str, Any] = {
        "space": "left-posterior-superior",
        "kinds": [*(["list"] if several else []), "domain", "domain", "domain"],
        "space directions": np.vstack([np.full(3, np.nan), directions]) if several else directions,
        "space origin": np.asarray(geometry.origin_mm_LPS),
        "Segmentation_MasterRepresentation": "Binary labelmap",
    }
    for number, fields in enumerate(segments):
        header |= {f"Segment{number}_{name}": str(value) for name, value in fields.items()}
    nrrd.write(str(path), data if several else data[0], header)
    return path


# Segmentations


@pytest.mark.parametrize("form", list(LabelFormat))
def test_a_label_without_overlap_comes_back_from_each_format(
    form: LabelFormat, tmp_path: Path, protocol: Protocol
) -> None:
    files = write_label(Label.of(label_of()), protocol, tmp_path, "case", form)
    assert [path.name for path in files] == [f"case.{form}"]
    back = read_label(files, protocol, OBLIQUE)
    assert np.array_equal(back.layers_LZYX, label_of().array_ZYX[np.newaxis])


def test_structures_that_overlap_come_back_from_a_segmentation_file(tmp_path: Path, abdomen: Protocol) -> None:
    label = overlapping(abdomen)
    files = write_label(label, abdomen, tmp_path, "case", LabelFormat.SEG_NRRD)
    assert np.array_equal(read_label(files, abdomen, OBLIQUE).layers_LZYX, label.layers_LZYX)


def test_structures_that_overlap_are_one_nifti_file_a_layer(tmp_path: Path, abdomen: Protocol) -> None:
    label = overlapping(abdomen)
    files = write_label(label, abdomen, tmp_path, "case", LabelFormat.NIFTI)
    assert [path.name for path in files] == ["case_layer-1.nii.gz", "case_layer-2.nii.gz"]
    for layer_ZYX, path in zip(label.layers_LZYX, files, strict=True):
        assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), layer_ZYX)


def test_a_structure_in_parts_is_written_whole(tmp_path: Path, protocol: Protocol) -> None:
    layers = np.zeros((2, *OBLIQUE.shape_ZYX), np.uint8)
    layers[0, 1, 1, 1] = layers[1, 4, 4, 4] = 1
    label = Label(geometry=OBLIQUE, layers_LZYX=layers)
    files = write_label(label, protocol, tmp_path, "case", LabelFormat.SEG_NRRD)
    assert np.array_equal(read_label(files, protocol, OBLIQUE).mask_ZYX(1), label.mask_ZYX(1))


def test_a_segmentation_file_lies_where_itk_says_and_names_and_colours_its_segments(
    tmp_path: Path, abdomen: Protocol
) -> None:
    label = Label(geometry=OBLIQUE, layers_LZYX=overlapping(abdomen).layers_LZYX[:1])
    (path,) = write_label(label, abdomen, tmp_path, "case", LabelFormat.SEG_NRRD)
    image = sitk.ReadImage(str(path))
    assert OBLIQUE.difference(Volume.from_sitk(image).geometry, tolerance_mm=1e-6) is None
    header = nrrd.read_header(str(path))
    assert header["Segment0_Name"] == "liver"
    assert header["Segment0_Extent"] == "1 4 1 4 1 4"
    red, green, blue = (round(float(part) * 255) for part in header["Segment0_Color"].split())
    assert f"#{red:02x}{green:02x}{blue:02x}" == abdomen.structures[0].color
    assert "SCT^10200004^Liver" in header["Segment0_Tags"]
    assert header["Segment5_Extent"] == "0 -1 0 -1 0 -1"  # no tumour


def test_segments_are_known_by_name_whatever_their_value_and_layer(tmp_path: Path, abdomen: Protocol) -> None:
    layers = np.zeros((2, *OBLIQUE.shape_ZYX), np.uint8)
    layers[0, 1:3] = 1
    layers[1, 2:4] = 1  # Slicer counts anew in each layer
    layers[0, 5] = 2
    path = slicers_file(
        tmp_path / "s.seg.nrrd",
        layers,
        [
            {"ID": "Segment_1", "Name": "Liver_Tumour", "LabelValue": 1, "Layer": 1},
            {"ID": "Segment_2", "Name": "Liver", "LabelValue": 1, "Layer": 0},
            {"ID": "spleen", "Name": "Milz", "LabelValue": 2, "Layer": 0},
            {"ID": "Segment_4", "Name": "nothing drawn", "LabelValue": 3, "Layer": 0},
        ],
    )
    label = read_label([path], abdomen, OBLIQUE)
    for name, where in {"liver": slice(1, 3), "liver_tumour": slice(2, 4), "spleen": slice(5, 6)}.items():
        expected = np.zeros(OBLIQUE.shape_ZYX, bool)
        expected[where] = True
        assert np.array_equal(label.mask_ZYX(abdomen.values[name]), expected), name


def test_a_cropped_segmentation_is_put_back_in_its_place(tmp_path: Path, protocol: Protocol) -> None:
    """Cut to z 2–4, y 3–7, x 1–3 of the image."""
    part = np.zeros((1, 3, 5, 3), np.uint8)
    part[0, 0, 0, 0], part[0, 2, 4, 2] = 1, 2
    origin = OBLIQUE.affine_LPS() @ [1, 3, 2, 1]
    cropped = replace(OBLIQUE, shape_ZYX=(3, 5, 3), origin_mm_LPS=tuple(origin[:3].tolist()))
    path = slicers_file(
        tmp_path / "s.seg.nrrd",
        part,
        [{"Name": "anterior", "LabelValue": 1, "Layer": 0}, {"Name": "posterior", "LabelValue": 2, "Layer": 0}],
        cropped,
    )
    label = read_label([path], protocol, OBLIQUE)
    assert np.argwhere(label.mask_ZYX(1)).tolist() == [[2, 3, 1]]
    assert np.argwhere(label.mask_ZYX(2)).tolist() == [[4, 7, 3]]


def test_a_right_anterior_superior_file_lies_where_the_same_in_lps_does(tmp_path: Path, protocol: Protocol) -> None:
    path = slicers_file(
        tmp_path / "s.seg.nrrd", label_of().array_ZYX[np.newaxis], [{"Name": "anterior"}, {"Name": "posterior"}]
    )
    data, header = nrrd.read(str(path))
    flip = np.array([-1.0, -1.0, 1.0])
    header |= {"space": "right-anterior-superior", "space origin": header["space origin"] * flip}
    header |= {"space directions": header["space directions"] * flip, "Segment1_LabelValue": "2", "Segment1_Layer": "0"}
    nrrd.write(str(path), data, header)
    assert np.array_equal(read_label([path], protocol, OBLIQUE).array_ZYX, label_of().array_ZYX)


def test_a_file_with_one_voxel_is_slicers_empty_segmentation(tmp_path: Path, protocol: Protocol) -> None:
    elsewhere = replace(OBLIQUE, shape_ZYX=(1, 1, 1), origin_mm_LPS=(0.0, 0.0, 0.0))
    path = slicers_file(tmp_path / "s.seg.nrrd", np.zeros((1, 1, 1, 1), np.uint8), [{"Name": "anterior"}], elsewhere)
    assert not read_label([path], protocol, OBLIQUE).array_ZYX.any()


@pytest.mark.parametrize(
    ("segments", "words"),
    [
        ([{"Name": "tail", "LabelValue": 1, "Layer": 0}], r"a segment 'tail'; protocol hippocampus outlines anterior"),
        ([{"Name": "anterior", "LabelValue": 9, "Layer": 0}], "value 1 that no segment describes"),
        (
            [{"Name": "anterior", "LabelValue": 1, "Layer": 0}, {"Name": "ANTERIOR", "LabelValue": 2, "Layer": 0}],
            "two segments have the name of one structure",
        ),
    ],
    ids=["a foreign name", "a value without a name", "one name twice"],
)
def test_segments_that_fit_no_protocol_are_refused(
    segments: list[dict[str, object]], words: str, tmp_path: Path, protocol: Protocol
) -> None:
    path = slicers_file(tmp_path / "s.seg.nrrd", label_of().array_ZYX[np.newaxis], segments)
    with pytest.raises(LabelError, match=words):
        read_label([path], protocol, OBLIQUE)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd"])
def test_a_volume_without_names_is_in_the_protocols_values(suffix: str, tmp_path: Path, protocol: Protocol) -> None:
    label = label_of()
    write_volume(label, tmp_path / f"good{suffix}")
    assert np.array_equal(read_label([tmp_path / f"good{suffix}"], protocol, OBLIQUE).array_ZYX, label.array_ZYX)
    write_volume(Volume(array_ZYX=label.array_ZYX * 3, geometry=OBLIQUE), tmp_path / f"bad{suffix}")
    with pytest.raises(LabelError, match=r"values \[3, 6\] and no names .* 1 anterior, 2 posterior"):
        read_label([tmp_path / f"bad{suffix}"], protocol, OBLIQUE)


def test_a_label_beside_the_image_is_refused(tmp_path: Path, protocol: Protocol) -> None:
    shifted = replace(OBLIQUE, origin_mm_LPS=(-31.3, 12.5, 7.25))
    write_volume(label_of(geometry=shifted), tmp_path / "beside.nii.gz")
    with pytest.raises(LabelError, match=r"0\.30 mm from the image's"):
        read_label([tmp_path / "beside.nii.gz"], protocol, OBLIQUE)
    outside = replace(OBLIQUE, origin_mm_LPS=tuple((OBLIQUE.affine_LPS() @ [5, 0, 0, 1])[:3].tolist()))
    write_volume(label_of(geometry=outside), tmp_path / "outside.nii.gz")
    with pytest.raises(LabelError, match="voxels outside the image"):
        read_label([tmp_path / "outside.nii.gz"], protocol, OBLIQUE)


def test_a_file_that_names_another_as_its_data_is_refused(tmp_path: Path, protocol: Protocol) -> None:
    (tmp_path / "secret.raw").write_bytes(bytes(480))
    fields = ["type: uint8", "dimension: 3", "sizes: 8 10 6", "encoding: raw", "space: left-posterior-superior"]
    fields += ["space directions: (1,0,0) (0,1,0) (0,0,1)", "data file: secret.raw", "Segment0_Name:=anterior"]
    (tmp_path / "s.seg.nrrd").write_text("\n".join(["NRRD0005", *fields]) + "\n\n")
    with pytest.raises(UnreadableVolumeError, match="names another file"):
        read_label([tmp_path / "s.seg.nrrd"], protocol, OBLIQUE)


@pytest.mark.parametrize("content", [b"", b"NRRD0004\n", b"NRRD0005\ntype: uint8\nsizes: 4 4\n\n", b"\x00" * 200])
def test_a_broken_segmentation_is_refused_in_words(content: bytes, tmp_path: Path, protocol: Protocol) -> None:
    (tmp_path / "s.seg.nrrd").write_bytes(content)
    with pytest.raises(UnreadableVolumeError, match=r"NRRD file|expected a 3D volume"):
        read_label([tmp_path / "s.seg.nrrd"], protocol, OBLIQUE)


# Markups


def test_boxes_and_points_come_back_from_markups(tmp_path: Path, lung: Protocol) -> None:
    label = Label(
        geometry=OBLIQUE,
        layers_LZYX=np.zeros((0, *OBLIQUE.shape_ZYX), np.uint8),
        boxes=(Box(structure="nodule", centre_mm_LPS=(-30.0, 14.0, 3.0), size_mm_XYZ=(2.0, 3.0, 4.0)),),
        points=(Point(structure="micronodule", position_mm_LPS=(-29.0, 15.0, 1.0)),),
    )
    files = write_label(label, lung, tmp_path, "case", LabelFormat.SEG_NRRD)
    assert [path.name for path in files] == ["case.mrk.json"]
    back = read_label(files, lung, OBLIQUE)
    assert back.points == label.points
    assert back.boxes[0].centre_mm_LPS == label.boxes[0].centre_mm_LPS
    assert back.boxes[0].size_mm_XYZ == pytest.approx((2.0, 3.0, 4.0))
    (roi, _) = json.loads(files[0].read_text())["markups"]
    assert np.linalg.det(np.reshape(roi["orientation"], (3, 3))) == pytest.approx(1)  # the image's is left-handed


def markups_file(path: Path, *markups: dict[str, object]) -> Path:
    path.write_text(json.dumps({"@schema": "markups-schema-v1.0.3.json#", "markups": list(markups)}))
    return path


def test_markups_in_ras_mean_the_same_places(tmp_path: Path, lung: Protocol) -> None:
    roi = {"type": "ROI", "name": "nodule_1", "center": [30, -14, 3], "size": [2, 3, 4], "coordinateSystem": "RAS"}
    points = [
        {"label": "F-1", "description": "micronodule", "position": [29, -15, 1]},
        {"label": "micronodule-2", "position": [0, 0, 0], "positionStatus": "undefined"},
    ]
    path = markups_file(
        tmp_path / "m.mrk.json", roi, {"type": "Fiducial", "coordinateSystem": "RAS", "controlPoints": points}
    )
    upright = replace(OBLIQUE, direction_LPS=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    label = read_label([path], lung, upright)
    assert label.boxes == (Box(structure="nodule", centre_mm_LPS=(-30.0, 14.0, 3.0), size_mm_XYZ=(2.0, 3.0, 4.0)),)
    assert label.points == (Point(structure="micronodule", position_mm_LPS=(-29.0, 15.0, 1.0)),)


def test_a_box_that_is_turned_is_measured_along_the_images_axes(tmp_path: Path, lung: Protocol) -> None:
    """Turned by 90° about z: what the file calls x is the image's y. Then by 30°: the smallest box around it."""
    upright = replace(OBLIQUE, direction_LPS=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    roi = {"type": "ROI", "name": "nodule", "center": [0, 0, 0], "size": [2, 4, 6]}
    turned = markups_file(tmp_path / "m.mrk.json", roi | {"orientation": [0, -1, 0, 1, 0, 0, 0, 0, 1]})
    assert read_label([turned], lung, upright).boxes[0].size_mm_XYZ == pytest.approx((4, 2, 6))
    upright_in_oblique = read_label([markups_file(tmp_path / "u.mrk.json", roi)], lung, OBLIQUE).boxes[0]
    cos, sin = 0.866025403784, 0.5
    assert upright_in_oblique.size_mm_XYZ == pytest.approx((2 * cos + 4 * sin, 2 * sin + 4 * cos, 6))


@pytest.mark.parametrize(
    ("markup", "words"),
    [
        ({"type": "Line", "controlPoints": []}, "markups.0.type"),
        ({"type": "ROI", "name": "R", "center": [0, 0, 0], "size": [1, 1, 1]}, "is called 'R'; .* boxes of nodule"),
        ({"type": "ROI", "name": "micronodule", "center": [0, 0, 0], "size": [1, 1, 1]}, "'micronodule'"),
        ({"type": "ROI", "name": "nodule", "center": [0, 0, 0], "size": [1, 0, 1]}, "no centre or no size"),
        ({"type": "ROI", "name": "nodule", "center": [0, 0, 0], "size": [1, 1, 1], "orientation": [1] * 9}, "angles"),
        ({"type": "ROI", "name": "nodule", "center": [0, 0, 0], "coordinateUnits": "um"}, "coordinateUnits"),
        ({"type": "Fiducial", "controlPoints": [{"position": [0, 0, 0]}]}, "called no name; .* points of micronodule"),
        ({"type": "Fiducial", "controlPoints": [{"position": [0, 0]}]}, "controlPoints.0.position"),
    ],
)
def test_markups_that_fit_no_protocol_are_refused(
    markup: dict[str, object], words: str, tmp_path: Path, lung: Protocol
) -> None:
    with pytest.raises(LabelError, match=words):
        read_label([markups_file(tmp_path / "m.mrk.json", markup)], lung, OBLIQUE)


def test_two_volumes_are_not_one_label(tmp_path: Path, protocol: Protocol) -> None:
    with pytest.raises(LabelError, match="one volume with all structures was expected, found 2"):
        read_label([tmp_path / "a.nii.gz", tmp_path / "b.nrrd"], protocol, OBLIQUE)
