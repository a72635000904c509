"""Consensus of three and five readers of one large volume, and agreement's numbers, beside the libraries people use.

The readers outline the five organs of `bench_labels` each in his own way: one draws larger, one smaller, one leaves out
a slab, all with edges of their own. What both come to is compared before anything of ours is timed; the peers that take
many seconds are timed in that one run of theirs.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import SimpleITK as sitk
from bench_labels import grid, organs
from bench_metrics import metric_rows
from measuring import REPEATS, Row, compare, seconds_of
from numpy.typing import NDArray

from labeling_protocols.consensus import Formed, form_consensus, majority
from labeling_protocols.label import Label
from labeling_protocols.protocol import SHIPPED, Protocol, Ties, load_protocol
from labeling_protocols.protocol_parts import ConsensusRule

LABEL_SHAPE_ZYX = (300, 512, 512)
_UNDECIDED = 255
_WEIGHTS_APART = 1e-6
_UNLIKE_AT_MOST = 1e-6  # share of voxels that SimpleITK's many-label STAPLE decides otherwise (see `_staple_labels`)

Array = NDArray[np.uint8]


def agreement_rows(shape_ZYX: tuple[int, int, int] = LABEL_SHAPE_ZYX, repeats: int = REPEATS) -> list[Row]:
    """Rows for three and five readers, then those of agreement's numbers."""
    readers_ZYX = [reader(number, shape_ZYX) for number in range(5)]
    protocol = _background_at_ties(load_protocol(SHIPPED / "hippocampus.yaml"))
    one, five = _structures(protocol, 1), _structures(protocol, 5)
    rows = []
    for count in (3, 5):
        some = readers_ZYX[:count]
        rows += [
            *_staple(one, [np.minimum(reader_ZYX, 1) for reader_ZYX in some], repeats),
            _staple_labels(five, some, repeats),
            _majority(five, some, repeats),
        ]
    return [*rows, *metric_rows(shape_ZYX)]


def reader(number: int, shape_ZYX: tuple[int, int, int]) -> Array:
    """One reader's outlines: the organs shifted a little, with an edge of his own, a few slices of one left out."""
    generator = np.random.default_rng(number)
    shift_ZYX = tuple(int(step) for step in generator.integers(-1, 2, 3) * np.maximum(1, np.array(shape_ZYX) // 250))
    drawn_ZYX = np.roll(organs(shape_ZYX), shift_ZYX, axis=(0, 1, 2))
    z, y, x = np.ogrid[tuple(slice(0, length) for length in shape_ZYX)]
    phase = generator.uniform(0, 2 * np.pi, 3)
    uneven = np.sin(z / 5 + phase[0]) + np.sin(y / 8 + phase[1]) + np.sin(x / 10 + phase[2]) > 1.2
    drawn_ZYX = np.where(uneven, np.roll(drawn_ZYX, 1, axis=2), drawn_ZYX)
    first = int(generator.integers(shape_ZYX[0] // 3, shape_ZYX[0] // 2))
    slab_ZYX = drawn_ZYX[first : first + max(1, shape_ZYX[0] // 60)]
    slab_ZYX[slab_ZYX == 1 + number % 5] = 0
    return np.ascontiguousarray(drawn_ZYX)


def _staple(protocol: Protocol, readers_ZYX: Sequence[Array], repeats: int) -> list[Row]:
    """STAPLE of one structure beside SimpleITK's with its threshold, and beside one pass that reads the same data."""
    labels = _labels(readers_ZYX)
    images = [sitk.GetImageFromArray(reader_ZYX) for reader_ZYX in readers_ZYX]
    words = [reader_ZYX.ravel()[: reader_ZYX.size // 8 * 8].view(np.uint64) for reader_ZYX in readers_ZYX]
    name = f"staple {len(readers_ZYX)} readers"
    peer, found = sitk.STAPLEImageFilter(), []
    peer_s = seconds_of(lambda: found.append(peer.Execute(images) > 0.5))

    def ours() -> Formed:
        return form_consensus(protocol, labels, ConsensusRule.STAPLE)

    def read_pass() -> list[int]:
        return [int(np.bitwise_or.reduce(of_reader)) for of_reader in words]

    _require_equal_staple(name, ours(), sitk.GetArrayFromImage(found[0]), peer)
    return [
        _beside(name, ours, peer_s, 200, repeats),
        compare(f"{name} vs one read pass", ours, read_pass, 1 / 5, repeats),
    ]


def _require_equal_staple(name: str, formed: Formed, mask_ZYX: Array, peer: sitk.STAPLEImageFilter) -> None:
    _require(name, np.array_equal(formed.label.array_ZYX, mask_ZYX), "masks differ")
    assert formed.performance is not None
    found = [performance for of_reader in formed.performance.values() for performance in of_reader.values()]
    for one, sensitivity, specificity in zip(found, peer.GetSensitivity(), peer.GetSpecificity(), strict=True):
        assert one.sensitivity is not None
        assert one.specificity is not None
        apart = max(abs(one.sensitivity - sensitivity), abs(one.specificity - specificity))
        _require(name, apart <= _WEIGHTS_APART, f"weights differ by {apart:.2g}")


def _staple_labels(protocol: Protocol, readers_ZYX: Sequence[Array], repeats: int) -> Row:
    """STAPLE of structures that exclude each other beside SimpleITK's for several labels.

    SimpleITK's starts from a vote and counts its ties as votes of a neighbouring label for background, so what it
    comes to can differ in single voxels; ours are left out of the start, as in later versions of ITK.
    """
    labels = _labels(readers_ZYX)
    images = [sitk.GetImageFromArray(reader_ZYX) for reader_ZYX in readers_ZYX]
    name = f"multi-label staple {len(readers_ZYX)} readers"
    found: list[sitk.Image] = []
    peer_s = seconds_of(lambda: found.append(sitk.MultiLabelSTAPLE(images, _UNDECIDED)))

    def ours() -> Formed:
        return form_consensus(protocol, labels, ConsensusRule.STAPLE)

    ours_ZYX, theirs_ZYX = ours().label.array_ZYX, sitk.GetArrayFromImage(found[0])
    unlike = np.count_nonzero((ours_ZYX != theirs_ZYX) & (theirs_ZYX != _UNDECIDED)) / ours_ZYX.size
    _require(name, unlike <= _UNLIKE_AT_MOST, f"{unlike:.2g} of the voxels differ")
    return _beside(name, ours, peer_s, 30, repeats)


def _majority(protocol: Protocol, readers_ZYX: Sequence[Array], repeats: int) -> Row:
    """The vote beside SimpleITK's, whose ties get a value of their own; ours are background here."""
    images = [sitk.GetImageFromArray(reader_ZYX) for reader_ZYX in readers_ZYX]
    name = f"majority {len(readers_ZYX)} readers"

    def ours() -> Array:
        return majority(protocol, readers_ZYX, (1.0, 1.0, 1.0))

    def simpleitk() -> sitk.Image:
        return sitk.LabelVoting(images, _UNDECIDED)

    theirs_ZYX = sitk.GetArrayFromImage(simpleitk())
    same = np.array_equal(ours(), np.where(theirs_ZYX == _UNDECIDED, 0, theirs_ZYX))
    _require(name, same, "votes differ")
    return compare(name, ours, simpleitk, 5, repeats)


def _beside(name: str, ours: Callable[[], object], peer_s: float, goal: float, repeats: int) -> Row:
    """Our median beside one run of a peer that takes many seconds."""
    ours_s = statistics.median(seconds_of(ours) for _ in range(repeats))
    return Row(name=name, ours=ours_s, peer=peer_s, ratio=peer_s / ours_s, goal=goal)


def _labels(readers_ZYX: Sequence[Array]) -> dict[str, Label]:
    geometry = grid(readers_ZYX[0].shape)
    return {
        f"reader {number}": Label(geometry=geometry, layers_LZYX=reader_ZYX[np.newaxis])
        for number, reader_ZYX in enumerate(readers_ZYX)
    }


def _background_at_ties(protocol: Protocol) -> Protocol:
    return replace(protocol, consensus=replace(protocol.consensus, ties=Ties.BACKGROUND))


def _structures(protocol: Protocol, count: int) -> Protocol:
    """A protocol with so many structures, values from 1, that exclude each other."""
    first, limits = protocol.structures[0], protocol.agreement[protocol.structures[0].name]
    structures = tuple(replace(first, name=f"organ_{value}", value=value) for value in range(1, count + 1))
    names = [structure.name for structure in structures]
    return replace(
        protocol,
        structures=structures,
        agreement=dict.fromkeys(names, limits),
        gate=replace(protocol.gate, dice_min=dict.fromkeys(names, 0.0)),
    )


def _require(name: str, condition: bool, found: str) -> None:
    if not condition:
        raise SystemExit(f"{name}: {found}; expected the peer's result. Nothing was timed.")
