"""A label comes back as it was saved, equal labels give equal bytes, and damaged bytes are refused in words."""

import json
import struct
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from labeling_protocols.geometry import Geometry
from labeling_protocols.label import Box, Label, LabelError, Point
from labeling_protocols.label_codec import decode_label, encode_label
from tests.conftest import OBLIQUE, label_of

BOX = Box(structure="nodule", centre_mm_LPS=(1.5, -2.0, 3.25), size_mm_XYZ=(4.0, 5.0, 6.0))
POINT = Point(structure="apex", position_mm_LPS=(-0.5, 0.0, 1e-3))

finite = st.floats(-1e4, 1e4)
triples = st.tuples(finite, finite, finite)
names = st.text(max_size=8)


def grid(shape_ZYX: tuple[int, int, int]) -> Geometry:
    return Geometry(**{**OBLIQUE.__dict__, "shape_ZYX": shape_ZYX})


@st.composite
def drawn_layers(draw: st.DrawFn) -> NDArray[np.uint8]:
    """Layers of any odd shape, from empty through outlines (runs and patterns) to noise."""
    shape = tuple(draw(st.integers(1, 40)) for _ in range(3))
    layers = np.zeros((draw(st.integers(0, 3)), *shape), np.uint8)
    flat = layers.reshape(-1)
    for _ in range(draw(st.integers(0, 8))):
        begin = draw(st.integers(0, max(flat.size - 1, 0)))
        length = draw(st.integers(1, 200))
        pattern = draw(st.lists(st.integers(0, 255), min_size=1, max_size=9))
        flat[begin : begin + length] = np.resize(np.array(pattern, np.uint8), flat[begin : begin + length].size)
    if draw(st.booleans()) and draw(st.booleans()):
        flat[:] = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 3, flat.size)
    return layers


@settings(deadline=None, max_examples=300)
@given(
    layers=drawn_layers(),
    boxes=st.lists(st.builds(Box, structure=names, centre_mm_LPS=triples, size_mm_XYZ=triples), max_size=3),
    points=st.lists(st.builds(Point, structure=names, position_mm_LPS=triples), max_size=3),
    answers=st.dictionaries(names, st.text(max_size=5) | st.integers(-9, 9) | finite | st.booleans(), max_size=3),
)
def test_any_label_comes_back_as_it_was(
    layers: NDArray[np.uint8], boxes: list[Box], points: list[Point], answers: dict[str, Any]
) -> None:
    label = Label(
        geometry=grid(layers.shape[1:]), layers_LZYX=layers, boxes=tuple(boxes), points=tuple(points), answers=answers
    )
    encoded = encode_label(label)
    back = decode_label(encoded.content)
    assert back.layers_LZYX.shape == layers.shape
    assert np.array_equal(back.layers_LZYX, layers)
    assert (back.geometry, back.boxes, back.points) == (label.geometry, label.boxes, label.points)
    assert back.answers == answers
    assert {name: type(answer) for name, answer in back.answers.items()} == {k: type(v) for k, v in answers.items()}
    values, counts = np.unique(layers[layers != 0], return_counts=True)
    assert encoded.voxels == dict(zip(values.tolist(), counts.tolist(), strict=True))
    assert encode_label(back).content == encoded.content


@settings(deadline=None, max_examples=150)
@given(layers=drawn_layers())
def test_a_large_label_is_packed_and_filled_as_a_small_one(layers: NDArray[np.uint8]) -> None:
    label = Label(geometry=grid(layers.shape[1:]), layers_LZYX=layers)
    small = encode_label(label)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("labeling_protocols.label_runs._LARGE_VOXELS", 1)
        large = encode_label(label)
        np.testing.assert_array_equal(decode_label(large.content).layers_LZYX, layers)
    assert large == small


def test_a_large_label_is_packed_small_and_comes_back() -> None:
    """Large enough for the large pages, wide enough gaps to leave memory untouched, and a last voxel to carry to."""
    layers = np.zeros((1, 61, 331, 333), np.uint8)
    layers[0, 3:9, 50:90, 70:130] = 1
    layers[0, 40:44, 200:230, 5:300] = 2
    layers[0, -1, -1, -1] = 3
    encoded = encode_label(Label(geometry=grid((61, 331, 333)), layers_LZYX=layers))
    assert len(encoded.content) < 1000
    assert encoded.voxels == {1: 6 * 40 * 60, 2: 4 * 30 * 295, 3: 1}
    assert np.array_equal(decode_label(encoded.content).layers_LZYX, layers)


@pytest.mark.parametrize("pattern", [[0] * 17 + [1] * 17, [1] * 9 + [2] * 12 + [0] * 30, [3] * 40 + [0, 0]], ids=len)
def test_a_label_of_very_many_runs_comes_back(pattern: list[int]) -> None:
    layers = np.resize(np.array(pattern, np.uint8), (1, 64, 130, 131))
    layers[0, 20:30] = 0
    encoded = encode_label(Label(geometry=grid((64, 130, 131)), layers_LZYX=layers))
    values, counts = np.unique(layers[layers != 0], return_counts=True)
    assert encoded.voxels == dict(zip(values.tolist(), counts.tolist(), strict=True))
    assert np.array_equal(decode_label(encoded.content).layers_LZYX, layers)
    assert len(encoded.content) < 50_000


def test_a_label_that_fills_its_image_comes_back() -> None:
    layers = np.full((2, 7, 11, 13), 5, np.uint8)
    encoded = encode_label(Label(geometry=grid((7, 11, 13)), layers_LZYX=layers))
    assert encoded.voxels == {5: 2 * 7 * 11 * 13}
    assert np.array_equal(decode_label(encoded.content).layers_LZYX, layers)


def test_noise_takes_no_more_room_than_its_voxels() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (1, 32, 64, 64), dtype=np.uint8)
    encoded = encode_label(Label(geometry=grid((32, 64, 64)), layers_LZYX=noise))
    assert len(encoded.content) < noise.size + 1000
    assert np.array_equal(decode_label(encoded.content).layers_LZYX, noise)


def test_the_order_in_memory_and_the_spelling_of_numbers_do_not_change_a_labels_bytes() -> None:
    label = label_of()
    layers = np.asarray(label.array_ZYX, np.uint8)[np.newaxis]
    numbers = {"origin_mm_LPS": (-0.0, 1, 2), "direction_LPS": (1, 0, 0, 0, 1, -0.0, 0, 0, 1)}
    same = {"origin_mm_LPS": (0.0, 1.0, 2.0), "direction_LPS": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)}
    first = Label(
        geometry=Geometry(**{**OBLIQUE.__dict__, **numbers}), layers_LZYX=layers, answers={"a": 1, "b": "yes"}
    )
    second = Label(
        geometry=Geometry(**{**OBLIQUE.__dict__, **same}),
        layers_LZYX=np.asfortranarray(layers),
        answers={"b": "yes", "a": 1},
    )
    assert encode_label(first).content == encode_label(second).content


@pytest.mark.parametrize("dtype", [bool, np.int8, np.int16, np.uint16, np.int32, np.int64, np.float32, np.float64])
def test_a_label_of_another_number_type_is_refused(dtype: type) -> None:
    with pytest.raises(LabelError, match="uint8"):
        Label(geometry=OBLIQUE, layers_LZYX=np.zeros((1, *OBLIQUE.shape_ZYX), dtype))  # type: ignore[arg-type]


def test_layers_that_do_not_fit_the_grid_are_refused() -> None:
    with pytest.raises(LabelError, match="on a grid of"):
        Label(geometry=OBLIQUE, layers_LZYX=np.zeros((1, 2, 2, 2), np.uint8))


def test_an_answer_that_is_no_number_is_refused() -> None:
    label = Label(
        geometry=grid((1, 1, 1)), layers_LZYX=np.zeros((0, 1, 1, 1), np.uint8), answers={"size": float("nan")}
    )
    with pytest.raises(LabelError, match="finite"):
        encode_label(label)


def test_a_label_of_the_first_format_is_read_as_one_layer() -> None:
    label = label_of(shift=2)
    header = json.dumps(label.geometry.as_json(), sort_keys=True).encode()
    voxels = zstandard.ZstdCompressor(level=3).compress(label.array_ZYX.tobytes())
    back = decode_label(b"OVRL\x01" + struct.pack("<I", len(header)) + header + voxels)
    assert back.geometry == OBLIQUE
    assert np.array_equal(back.layers_LZYX, label.array_ZYX[np.newaxis])


# Damage


def encoded_example() -> bytes:
    layers = np.zeros((1, 20, 30, 31), np.uint8)
    layers[0, 2:9, 5:12, 7:20] = 2
    return encode_label(Label(geometry=grid((20, 30, 31)), layers_LZYX=layers, boxes=(BOX,), points=(POINT,))).content


def with_header(changes: dict[str, Any]) -> bytes:
    content = encoded_example()
    (length,) = struct.unpack("<I", content[5:9])
    header = json.dumps({**json.loads(content[9 : 9 + length]), **changes}).encode()
    return content[:5] + struct.pack("<I", len(header)) + header + content[9 + length :]


def with_runs(steps: list[int], values: list[int]) -> bytes:
    planes = np.array(steps, "<u4").view(np.uint8).reshape(-1, 4).T.tobytes() + bytes(values)
    content = with_header({"runs": len(steps)})
    (length,) = struct.unpack("<I", content[5:9])
    return content[: 9 + length] + zstandard.ZstdCompressor().compress(planes)


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_damaged_bytes_are_a_value_error_and_nothing_else(data: st.DataObject) -> None:
    content = bytearray(encoded_example())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))]
    try:
        decode_label(bytes(content))
    except ValueError as error:
        assert str(error)  # noqa: PT017  an undamaged header with a changed number is a label too


@given(content=st.binary(max_size=200), magic=st.sampled_from([b"", b"OVRL\x01", b"OVRL\x02"]))
def test_foreign_bytes_are_a_value_error_and_nothing_else(content: bytes, magic: bytes) -> None:
    with pytest.raises(ValueError, match=r"not an encoded label|a damaged label"):
        decode_label(magic + content)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PK\x03\x04", "not an encoded label"),
        (b"OVRL\x02\xff\xff\xff\xff{}", "bytes and more were expected"),
        (b"OVRL\x02" + struct.pack("<I", 100_000) + b"[" * 100_000, "header cannot be read"),
        (with_header({"geometry": {**OBLIQUE.as_json(), "shape_ZYX": [10**9, 10**9, 10**9]}}), "voxels in"),
        (with_header({"geometry": {**OBLIQUE.as_json(), "shape_ZYX": [0, 4, 4]}}), "at least one voxel"),
        (with_header({"layers": -1}), "layers"),
        (with_header({"runs": 2**31}), "in 2147483648 runs"),
        (with_header({"runs": 3}), "15 bytes of content were expected"),
        (with_header({"frame": "voxels"}), "18600 bytes of content were expected"),
        (with_header({"frame": "pickle"}), "frame"),
        (with_header({"points": [{"structure": "a", "position_mm_LPS": [1, 2]}]}), "points.0"),
        (with_runs([5, 0, 3], [1, 2, 0]), "do not follow one another"),
        (with_runs([5, 2**32 - 1], [1, 2]), "do not follow one another"),
        (encoded_example() + b"more", "cannot be unpacked"),
        (encoded_example()[:-3], "cannot be unpacked"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_damage_is_told_in_words(content: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        decode_label(content)


def test_a_small_file_cannot_ask_for_much_memory() -> None:
    """A frame that unpacks to 2 GB of zeros under a header of 18,600 voxels is refused before it is unpacked."""
    bomb = zstandard.ZstdCompressor().compress(bytes(2**24))
    content = with_header({"frame": "voxels"})
    (length,) = struct.unpack("<I", content[5:9])
    with pytest.raises(ValueError, match="18600 bytes of content were expected, found 16777216"):
        decode_label(content[: 9 + length] + bomb)
