"""Planning data in DICOM-RT, a folder a patient."""
