"""HAM10000: dermatoscopic pictures, lesion outlines and diagnoses."""
