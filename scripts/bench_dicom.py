"""A DICOM segmentation of many slices written and read, beside highdicom alone and dcmqi's programs."""

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import highdicom as hd
import numpy as np
import SimpleITK as sitk
from bench_labels import grid, organs
from measuring import Row, compare
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from labeling_protocols.dicom_seg import ObjectIdentity, as_evidence, dicom_code, label_from_seg, seg_from_label
from labeling_protocols.geometry import Volume
from labeling_protocols.label import Label
from labeling_protocols.protocol import SHIPPED, Code, Protocol, Structure, load_protocol
from labeling_protocols.pseudonyms import keyed_uid
from labeling_protocols.series import Series, read_series, scan
from labeling_protocols.series_writer import SeriesIdentity, write_series

SHAPE_ZYX = (200, 512, 512)
_IDENTITY = ObjectIdentity(
    series_uid=keyed_uid(b"bench", "series"), instance_uid=keyed_uid(b"bench", "instance"), series_number=900
)


def dicom_rows(shape_ZYX: tuple[int, int, int] = SHAPE_ZYX, repeats: int = 7) -> list[Row]:
    """Writing 5 and 20 segments to bytes, and reading them onto their series' grid.

    highdicom gets the label as it wants it, in consecutive numbers, and writes to memory as we do. dcmqi is a program
    and does what its users wait for: it starts, reads the slices and the label's NRRD file, and writes a file.
    """
    rows = []
    with tempfile.TemporaryDirectory() as root:
        series = _series(shape_ZYX, Path(root) / "series")
        for count in (5, 20):
            protocol = _protocol(count)
            label = _split(organs(shape_ZYX), count)
            work = _Work(series, protocol, label, Path(root) / str(count))
            rows += [
                compare(f"seg write {count} segments vs highdicom", work.write, work.write_by_highdicom, 10, repeats),
                compare(f"seg write {count} segments vs dcmqi", work.write, work.write_by_dcmqi, 20, repeats),
                compare(f"seg read {count} segments vs highdicom", work.read, work.read_by_highdicom, 1, repeats),
            ]
    return rows


class _Work:
    def __init__(self, series: Series, protocol: Protocol, label_ZYX: NDArray[np.uint8], folder: Path) -> None:
        folder.mkdir()
        self._series, self._protocol, self._folder = series, protocol, folder
        self._label = Label(geometry=series.volume.geometry, layers_LZYX=label_ZYX[np.newaxis])
        self._sources = list(as_evidence(series.sources))
        self._content = self.write()
        segments = dcmread(BytesIO(self._content)).SegmentSequence
        self._described = [hd.seg.SegmentDescription.from_dataset(segment) for segment in segments]
        sitk.WriteImage(
            Volume(array_ZYX=label_ZYX.astype(np.int16), geometry=self._label.geometry).to_sitk(),
            str(folder / "label.nrrd"),
        )
        attributes = [_dcmqi_segment(structure) for structure in protocol.outlined]
        said = {"ContentCreatorName": "Bench^", "SeriesDescription": "x", "SeriesNumber": "1", "InstanceNumber": "1"}
        (folder / "meta.json").write_text(json.dumps({**said, "segmentAttributes": [attributes]}))

    def write(self) -> bytes:
        seg = seg_from_label(self._label, self._series.sources, self._protocol, _IDENTITY, creator="Bench")
        return _content(seg)

    def read(self) -> Label:
        return label_from_seg(dcmread(BytesIO(self._content)), self._protocol, self._series.sources)

    def read_by_highdicom(self) -> object:
        seg = hd.seg.segread(BytesIO(self._content))
        return seg.get_pixels_by_source_instance(
            [str(source.SOPInstanceUID) for source in self._series.sources],
            combine_segments=True,
            assert_missing_frames_are_empty=True,
        )

    def write_by_highdicom(self) -> bytes:
        seg = hd.seg.Segmentation(
            source_images=self._sources,
            pixel_array=self._label.array_ZYX,
            segmentation_type="BINARY",
            segment_descriptions=self._described,
            series_instance_uid=_IDENTITY.series_uid,
            series_number=_IDENTITY.series_number,
            sop_instance_uid=_IDENTITY.instance_uid,
            instance_number=1,
            manufacturer="Bench",
            manufacturer_model_name="Bench",
            software_versions="1",
            device_serial_number="1",
        )
        return _content(seg)

    def write_by_dcmqi(self) -> None:
        command = [
            str(Path(sys.executable).parent / "itkimage2segimage"),
            *("--inputImageList", str(self._folder / "label.nrrd")),
            *("--inputMetadata", str(self._folder / "meta.json")),
            *("--inputDICOMDirectory", str(self._series.files[0].parent)),
            *("--outputDICOM", str(self._folder / "seg.dcm")),
        ]
        subprocess.run(command, check=True, capture_output=True)


def _content(seg: Dataset) -> bytes:
    file = BytesIO()
    seg.save_as(file)
    return file.getvalue()


def _series(shape_ZYX: tuple[int, int, int], folder: Path) -> Series:
    identity = SeriesIdentity(
        patient_id="BENCH",
        patient_name="Bench^",
        study_uid=keyed_uid(b"bench", "study"),
        series_uid=keyed_uid(b"bench", "images"),
        frame_of_reference_uid=keyed_uid(b"bench", "frame"),
    )
    image = Volume(array_ZYX=np.zeros(shape_ZYX, np.int16), geometry=grid(shape_ZYX))
    write_series(image, folder, identity, modality="CT")
    return read_series(scan(folder)[0].files)


def _split(organs_ZYX: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """The five organs, or each in four parts that alternate in squares of 32 pixels across the slice: 1 to 20."""
    if count == 5:
        return organs_ZYX
    _, height, width = organs_ZYX.shape
    part_YX = (np.arange(height)[:, None] // 32 % 2 + 2 * (np.arange(width) // 32 % 2)).astype(np.uint8)
    return np.where(organs_ZYX > 0, 4 * (organs_ZYX - 1) + part_YX + 1, 0).astype(np.uint8)


def _protocol(count: int) -> Protocol:
    protocol = load_protocol(SHIPPED / "abdomen_ct.yaml")
    first = protocol.outlined[0]
    structures = tuple(
        replace(
            first,
            name=f"part_{value}",
            title=f"Part {value}",
            value=value,
            type=Code(scheme="99BENCH", value=str(value), meaning=f"Part {value}"),
        )
        for value in range(1, count + 1)
    )
    names = [structure.name for structure in structures]
    gate = replace(protocol.gate, dice_min=dict.fromkeys(names, 0.5), surface_dice_min=None, hd95_mm_max=None)
    limits = protocol.agreement[first.name]
    return replace(
        protocol,
        structures=structures,
        overlaps=(),
        agreement=dict.fromkeys(names, limits),
        gate=gate,
        calibration=None,
    )


def _dcmqi_segment(structure: Structure) -> dict[str, object]:
    def coded(code: Code) -> dict[str, str]:
        found = dicom_code(code)
        return {
            "CodeValue": found.value,
            "CodingSchemeDesignator": found.scheme_designator,
            "CodeMeaning": found.meaning,
        }

    return {
        "labelID": structure.value,
        "SegmentLabel": structure.title,
        "SegmentDescription": structure.name,
        "SegmentAlgorithmType": "MANUAL",
        "SegmentedPropertyCategoryCodeSequence": coded(structure.category),
        "SegmentedPropertyTypeCodeSequence": coded(structure.type),
    }
