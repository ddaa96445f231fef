"""OpenKBP as axial slices: pictures of real patients, for experiments in minutes."""
