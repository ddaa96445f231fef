"""Give folders to the user that steps run as. Idempotent; looks at the folders themselves, not at what lies in them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

USER = GROUP = 1000  # of the image


def main(folders: list[str]) -> int:
    """Give each folder to the steps' user; return the exit status."""
    for folder in folders:
        try:
            found = Path(folder).stat()
            if (found.st_uid, found.st_gid) != (USER, GROUP):
                os.chown(folder, USER, GROUP)
        except OSError as error:
            print(
                f"{folder}: cannot be given to {USER}:{GROUP} ({error.strerror}); on NFS with root_squash the server's "
                "administrator must do it",
                file=sys.stderr,
            )
            return 1
        print(f"{folder}: belongs to {USER}:{GROUP} (found {found.st_uid}:{found.st_gid})")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
