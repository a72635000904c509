"""Images in: folders of NIfTI, NRRD and DICOM become cases without anything that names a patient."""
