"""The raw format of STOIC: its folders and its table."""

IMAGES, REFERENCE = "data/mha", "metadata/reference.csv"
COLUMNS = ("PatientID", "probCOVID", "probSevere")
