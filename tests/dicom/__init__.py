"""DICOM series, segmentations and reports."""
