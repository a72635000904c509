"""How cases lie to one another: their features in, which of them stand for the others, and how far off each is, out."""

import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.cluster.vq import kmeans2
from scipy.spatial.distance import cdist

from labeling_protocols.geometry import Volume
from training.acquisition_cases import AcquisitionError, CaseSummary

CENTRES_MAX = 1000  # chosen one by one; what comes after is ordered by its distance from these
CLUSTERS_MAX = 500  # as TypiClust bounds them
_NEIGHBOURS = 20  # as TypiClust takes them
_ROWS = 512  # of a distance matrix at a time
_EDGE = 6  # voxels an edge that an image is brought down to

_Floats = NDArray[np.float64]


def standardised(cases: Sequence[CaseSummary], read: Sequence[CaseSummary]) -> tuple[_Floats, _Floats]:
    """Features (N, F) of both, each feature with mean 0 and deviation 1 over all; one that never differs is 0.

    Raises `AcquisitionError` where cases have features of another length: they are of another model.
    """
    known = [summary for summary in read if summary.features]
    lengths = {len(summary.features) for summary in (*cases, *known)}
    if len(lengths) > 1:
        raise AcquisitionError(
            f"features of {', '.join(map(str, sorted(lengths)))} numbers; expected those of one model."
            " Nothing was ordered."
        )
    values = np.array([summary.features for summary in (*cases, *known)], dtype=np.float64)
    spread = values.std(axis=0)
    scaled = (values - values.mean(axis=0)) / np.where(spread > 1e-12, spread, 1.0)
    scaled[:, spread <= 1e-12] = 0.0
    return scaled[: len(cases)], scaled[len(cases) :]


def distances_to_nearest(points: _Floats, centres: _Floats) -> _Floats:
    """From each point to the nearest centre; infinite where there is none."""
    if not len(centres):
        return np.full(len(points), np.inf)
    return np.concatenate([cdist(rows, centres).min(axis=1) for rows in _chunks(points)])


def centres(points: _Floats, read: _Floats) -> Iterator[tuple[int, float]]:
    """k-centre greedy (Sener and Savarese 2018, arXiv:1708.00489): the point farthest from all before it, and how far.

    The first, where nothing was read, is the one nearest to the middle. The first `CENTRES_MAX` are chosen one by one.
    """
    apart = distances_to_nearest(points, read)
    taken = np.zeros(len(points), dtype=np.bool_)
    if not len(read):
        from_middle = np.linalg.norm(points, axis=1)
        first = int(from_middle.argmin())
        yield first, 2.0 * float(from_middle.max())  # no two points are farther apart
        taken[first] = True
        apart = np.linalg.norm(points - points[first], axis=1)
    while taken.sum() < min(len(points), CENTRES_MAX):
        chosen = int(np.where(taken, -1.0, apart).argmax())
        yield chosen, float(apart[chosen])
        taken[chosen] = True
        apart = np.minimum(apart, np.linalg.norm(points - points[chosen], axis=1))
    rest = np.flatnonzero(~taken)
    for chosen in rest[np.argsort(-apart[rest], kind="stable")]:
        yield int(chosen), float(apart[chosen])


def clusters_of(points: _Floats, count: int, seed: int) -> NDArray[np.intp]:
    """The cluster of each point, by k-means from seeds far apart; fewer than `count` where points coincide."""
    distinct = len(np.unique(points, axis=0))
    with warnings.catch_warnings():  # a cluster may lose all its points; it is then nobody's
        warnings.simplefilter("ignore", UserWarning)
        _, labels = kmeans2(points, min(count, distinct), minit="++", rng=np.random.default_rng(seed))
    found: NDArray[np.intp] = labels.astype(np.intp)
    return found


def typicality(points: _Floats, clusters: NDArray[np.intp]) -> _Floats:
    """One over the mean distance to the nearest neighbours of the same cluster (Hacohen et al. 2022, arXiv:2202.02794).

    1e9 where they coincide, 0 where a point is alone.
    """
    found = np.zeros(len(points))
    for cluster in np.unique(clusters):
        members = np.flatnonzero(clusters == cluster)
        neighbours = min(_NEIGHBOURS, len(members) - 1)
        if neighbours:
            apart = [
                np.sort(np.partition(cdist(rows, points[members]), neighbours, axis=1)[:, : neighbours + 1], axis=1)
                for rows in _chunks(points[members])
            ]
            found[members] = 1.0 / np.maximum(np.concatenate(apart)[:, 1:].mean(axis=1), 1e-9)
    return found


def image_features(image: Volume) -> NDArray[np.float32]:
    """What an image is like without a model, for the cold start: (F,) intensities brought down, quantiles, extent.

    Intensities are taken relative to the image's own quantiles, so that MR of another scanner's scale is no other kind.
    """
    array_ZYX = image.array_ZYX
    steps = tuple(slice(None, None, max(1, size // 48)) for size in array_ZYX.shape)  # enough for a glance
    glance = array_ZYX[steps].astype(np.float32)
    low, high = np.percentile(glance, (1, 99))
    scaled = np.clip((glance - low) / max(float(high - low), 1e-6), 0.0, 1.0)
    zoom = [_EDGE / size for size in scaled.shape]
    small = ndimage.zoom(scaled, zoom, order=1, grid_mode=True, mode="nearest")
    extent_mm = np.array(array_ZYX.shape[::-1]) * np.array(image.geometry.spacing_mm_XYZ)
    parts = (small.ravel(), np.percentile(scaled, (10, 25, 50, 75, 90)), np.log(extent_mm))
    return np.concatenate(parts).astype(np.float32)


def _chunks(points: _Floats) -> Iterator[_Floats]:
    for start in range(0, max(len(points), 1), _ROWS):
        yield points[start : start + _ROWS]
