"""The DICOM inference endpoint: series in by C-STORE, a segmentation and a report of volumes out."""
