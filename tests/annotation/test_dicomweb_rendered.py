"""Rendered pictures: what a window makes of values, worked out by hand, and what a request may ask for."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset

from apps.annotation.dicomweb_rendered import Function, Rendering, Window, grey, rendered, windowed
from labeling_protocols.series_writer import series_datasets
from tests.conftest import image_of
from tests.dicom.examples import identity_of

VALUES = np.array([-1000.0, 0.0, 39.5, 40.0, 100.0, 1000.0])


def test_a_linear_window_is_that_of_the_standard() -> None:
    """C.11.2.1.2.1 with c = 40, w = 81: black up to -0.5, white from 79.5, and 39.5 in the middle between them."""
    shades = windowed(VALUES, Window(centre=40, width=81))
    np.testing.assert_allclose(shades, [0, 0.5 / 80 * 255, 127.5, 40.5 / 80 * 255, 255, 255])


def test_an_exact_window_and_a_sigmoid_have_their_centre_in_the_middle() -> None:
    exact = windowed(VALUES, Window(centre=40, width=80, function=Function.LINEAR_EXACT))
    np.testing.assert_allclose(exact, [0, 0, 39.5 / 80 * 255, 127.5, 255, 255])
    sigmoid = windowed(VALUES, Window(centre=40, width=80, function=Function.SIGMOID))
    assert sigmoid[3] == 127.5
    assert sigmoid[4] == pytest.approx(255 / (1 + np.exp(-3)))
    assert sigmoid[0] == pytest.approx(0, abs=1e-9)


def test_a_window_one_wide_is_a_threshold() -> None:
    assert windowed(VALUES, Window(centre=40, width=1)).tolist() == [0, 0, 0, 255, 255, 255]


@pytest.fixture
def image() -> Dataset:
    """6 slices of 10 × 8 pixels; this is the first."""
    one: Dataset = series_datasets(image_of(5), identity_of("rendered"))[0]
    return one


def test_the_headers_window_counts_where_none_is_asked_for(image: Dataset) -> None:
    stored = image.pixel_array
    image.WindowCenter, image.WindowWidth = [500, 1], [401, 2]
    expected = np.clip((stored - 499.5) / 400 + 0.5, 0, 1) * 255
    np.testing.assert_allclose(grey(image, stored, None), expected)
    image.PhotometricInterpretation = "MONOCHROME1"
    np.testing.assert_allclose(grey(image, stored, None), 255 - expected)
    image.RescaleSlope, image.RescaleIntercept = 2, -100
    asked = Window(centre=900, width=801)
    np.testing.assert_allclose(grey(image, stored, asked), 255 - np.clip((2 * stored - 999.5) / 800 + 0.5, 0, 1) * 255)


def test_without_any_window_all_values_are_shown(image: Dataset) -> None:
    for keyword in ("WindowCenter", "WindowWidth"):
        if keyword in image:
            delattr(image, keyword)
    shades = grey(image, image.pixel_array, None)
    assert (shades.min(), shades.max()) == (0, 255)
    assert grey(image, np.full((2, 2), 7, np.int16), None).tolist() == [[0, 0], [0, 0]]


def test_a_picture_fits_its_viewport_in_its_own_proportions(image: Dataset) -> None:
    window = Window(centre=500, width=1000)
    content = rendered(image, 1, Rendering(media_type="image/png", window=window))
    picture = np.asarray(Image.open(BytesIO(content)))
    np.testing.assert_array_equal(picture, np.floor(windowed(image.pixel_array.astype(float), window) + 0.5))
    wide = Image.open(BytesIO(rendered(image, 1, Rendering(viewport_XY=(100, 20)))))
    assert (wide.format, wide.size) == ("JPEG", (16, 20))
