"""What kfp starts in place of a Python for a step: asks the run's server for the step's process and stands for it.

    python -I -S step_client.py PYTHON SOCKET [ARGUMENTS OF PYTHON ...]

It imports nothing of ours, so that it starts in hundredths of a second. Output goes straight to where this process'
own would go; it ends as the step did, by the same exit code or signal. Where no server answers it becomes the Python.
"""

import contextlib
import json
import os
import signal
import socket
import struct
import sys

LENGTH = struct.Struct("!I")


def main(python: str, address: str, arguments: list[str]) -> None:
    """Run a step and end as it does."""
    folder = os.getcwd()  # noqa: PTH109  pathlib takes longer to load than this process works
    request = {"arguments": arguments, "folder": folder, "environment": dict(os.environ)}
    content = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(address)
            socket.send_fds(server, [LENGTH.pack(len(content))], [0, 1, 2])
            server.sendall(content)
        except OSError:
            os.execv(python, [python, *arguments])
        answer = b""
        with contextlib.suppress(OSError):
            answer = server.recv(LENGTH.size, socket.MSG_WAITALL)
    if len(answer) < LENGTH.size:
        sys.exit("the process that starts the steps of this run has ended")
    code = LENGTH.unpack(answer)[0]
    if code < 256:
        os._exit(code)
    signal.signal(code - 256, signal.SIG_DFL) if code - 256 not in (signal.SIGKILL, signal.SIGSTOP) else None
    os.kill(os.getpid(), code - 256)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
