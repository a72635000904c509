"""What is kept of images: made once, within a limit, the least recently used going first."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from labeling_protocols.geometry import Geometry, Volume
from training.prepared_images import PreparedImages, digest_of, image_digest

GRID = Geometry(
    shape_ZYX=(2, 3, 4),
    spacing_mm_XYZ=(1.0, 1.0, 1.0),
    origin_mm_LPS=(0.0, 0.0, 0.0),
    direction_LPS=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
)


class Maker:
    """Makes a word of so many bytes, and counts how often it was asked to."""

    def __init__(self, size: int = 10) -> None:
        self.size = size
        self.made: list[str] = []

    def get(self, kept: PreparedImages, name: str) -> str:
        def make() -> str:
            self.made.append(name)
            return f"made of {name}"

        return kept.get((name, "volume"), make, lambda _: self.size)


def test_what_is_kept_is_made_once() -> None:
    kept, maker = PreparedImages(), Maker()
    assert [maker.get(kept, "a") for _ in range(3)] == ["made of a"] * 3
    assert maker.made == ["a"]
    assert kept.known(("a", "volume"))
    assert not kept.known(("a", "prepared", "b"))


def test_the_least_recently_used_goes_first() -> None:
    kept, maker = PreparedImages(bytes_max=30), Maker()
    for name in ("a", "b", "c", "a", "d"):
        maker.get(kept, name)
    assert [name for name in "abcd" if kept.known((name, "volume"))] == ["a", "c", "d"]
    assert kept.bytes == 30


def test_what_is_larger_than_the_limit_is_handed_over_and_not_kept() -> None:
    kept, maker = PreparedImages(bytes_max=25), Maker()
    maker.get(kept, "a")
    maker.size = 26
    assert maker.get(kept, "large") == "made of large"
    assert not kept.known(("large", "volume"))
    assert kept.known(("a", "volume"))
    assert kept.bytes == 10


def test_several_who_ask_at_once_wait_for_one_that_makes_it() -> None:
    kept = PreparedImages()
    go = threading.Event()
    made: list[int] = []

    def make() -> str:
        assert go.wait(10)
        made.append(1)
        return "made"

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(kept.get, ("a",), make, len) for _ in range(4)]
        other = pool  # nobody waits for another image's
        go.set()
        assert [one.result(10) for one in asked] == ["made"] * 4
        assert other.submit(kept.get, ("b",), lambda: "b", len).result(10) == "b"
    assert made == [1]


def test_another_image_is_made_meanwhile() -> None:
    kept = PreparedImages()
    begun, go = threading.Event(), threading.Event()

    def slow() -> str:
        begun.set()
        assert go.wait(10)
        return "slow"

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(kept.get, ("slow",), slow, len)
        assert begun.wait(10)
        assert kept.get(("quick",), lambda: "quick", len) == "quick"
        go.set()
        assert asked.result(10) == "slow"


def test_where_making_fails_the_next_tries_himself() -> None:
    kept = PreparedImages()
    begun, go = threading.Event(), threading.Event()

    def fail() -> str:
        begun.set()
        assert go.wait(10)
        raise RuntimeError("broken")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(kept.get, ("a",), fail, len)
        assert begun.wait(10)
        second = pool.submit(kept.get, ("a",), lambda: "made", len)
        go.set()
        with pytest.raises(RuntimeError, match="broken"):
            first.result(10)
        assert second.result(10) == "made"
    assert kept.bytes == len("made")


def test_an_images_digest_is_that_of_voxels_type_and_grid() -> None:
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = Volume(array_ZYX=voxels, geometry=GRID)
    assert image_digest(image) == image_digest(Volume(array_ZYX=np.asfortranarray(voxels), geometry=GRID))
    moved = Geometry(**{**GRID.__dict__, "origin_mm_LPS": (0.0, 0.0, 0.5)})
    others = [
        Volume(array_ZYX=voxels + 1, geometry=GRID),
        Volume(array_ZYX=voxels.astype(np.int32), geometry=GRID),
        Volume(array_ZYX=voxels, geometry=moved),
    ]
    assert len({image_digest(one) for one in [image, *others]}) == 4
    assert digest_of(image) == image_digest(image)
    assert digest_of([image, others[0]]) != digest_of([others[0], image])
