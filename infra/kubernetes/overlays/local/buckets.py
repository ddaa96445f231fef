"""Create the buckets named on the command line where they are missing; waits for the S3 server to come up."""

from __future__ import annotations

import os
import sys
import time

PATIENCE_SECONDS = 600.0


def main(buckets: list[str]) -> int:
    """Create `buckets`; return the exit status. Address and keys come from the environment, as MLflow reads them."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            existing = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
            for bucket in set(buckets) - existing:
                client.create_bucket(Bucket=bucket)
                print(f"created {bucket}")
        except (BotoCoreError, ClientError) as error:
            if _refused(error) or time.monotonic() > deadline:
                print(error, file=sys.stderr)
                return 1
            time.sleep(2)
        else:
            return 0


def _refused(error: Exception) -> bool:
    """Whether waiting cannot help: the keys are wrong or lack the right."""
    status = getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return 400 <= status < 500


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
