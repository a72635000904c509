"""DICOM libraries print the values they find odd, which may be a patient's name: this keeps them out of our logs."""

import logging
import warnings

_LIBRARIES = ("pydicom", "pynetdicom", "highdicom")


def keep_values_out_of_logs() -> None:
    """Silence what the DICOM libraries log and warn of; what is wrong with an object is said by our own errors."""
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        warnings.filterwarnings("ignore", module=rf"{name}\b")
