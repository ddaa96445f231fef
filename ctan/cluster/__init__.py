"""The pipeline on a cluster: settings of the platform, rendering them into the compiled YAML, submitting it."""
