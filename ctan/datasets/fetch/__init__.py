"""Getting files from S3 and HTTP servers: parallel, resumable, checked. Knows nothing of data sets."""
