"""Planning data in DICOM-RT: a CT series, contours (RTSTRUCT), dose (RTDOSE) and prescription (RTPLAN) of a patient.

Files are told apart by their headers, never by name. Everything is de-identified as it is read
(`ctan.dicom.deidentify`): the modules here see pseudonyms, mapped UIDs and mapped structure names only.
"""
