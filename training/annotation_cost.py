"""How long a simulated reader takes over a case: what he draws in, seconds out.

Outlining is going round a structure slice by slice, so its time is in the length of all its contours: the area of its
surface over the distance of the slices that are drawn on. Opening a case, and finding and judging a lesion, take time
of their own. The time is that of drawing from nothing: it depends on the case alone, and so on no strategy.
"""

from collections.abc import Collection, Mapping

import numpy as np
from scipy import ndimage

from labeling_protocols.geometry import Volume
from labeling_protocols.surfaces import NEIGHBOURS_26

OPENING_S = 30.0  # to open a case, look through it and save it
LESION_S = 20.0  # to find one, decide what it is and start on it
DRAWING_MM_PER_S = 10.0  # of a contour
SLICE_MM = 2.0  # between slices that are drawn on
SURFACE_S_PER_MM2 = 1.0 / (DRAWING_MM_PER_S * SLICE_MM)


def reading_seconds(label: Volume, values: Mapping[str, int], counted: Collection[str]) -> float:
    """Seconds to draw this label; `values` are the structures' by name, each lesion of `counted` ones takes its own."""
    seconds = OPENING_S
    for name, value in values.items():
        mask_ZYX = label.array_ZYX == value
        seconds += SURFACE_S_PER_MM2 * surface_mm2(Volume(array_ZYX=mask_ZYX, geometry=label.geometry))
        if name in counted:
            seconds += LESION_S * int(ndimage.label(mask_ZYX, structure=NEIGHBOURS_26)[1])
    return seconds


def surface_mm2(mask: Volume) -> float:
    """Area of the voxel faces between inside and outside; of a ball half as much again as it truly is."""
    padded = np.pad(mask.array_ZYX.astype(np.int8), 1)
    sides_mm = mask.geometry.spacing_mm_ZYX
    area_mm2 = 0.0
    for axis in range(3):
        faces = int(np.count_nonzero(np.diff(padded, axis=axis)))
        area_mm2 += faces * float(np.prod([side for other, side in enumerate(sides_mm) if other != axis]))
    return area_mm2
