"""The DICOM endpoint."""
