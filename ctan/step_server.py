"""Starts the steps of a run on this machine: each a process of its own, forked from one that has loaded the libraries.

A run has about fifteen steps, and most of them need the same libraries, which take longer to load than a small step
works. They are loaded here when the first step needs them; later steps find them. A step's process has the folder, the
environment, the output and the arguments that it would have had as a Python of its own (`ctan.step_client` hands them
over), its own random state, and may die in any way. On a cluster every step is a container, and none of this happens.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import selectors
import shlex
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ctan import step_client
from ctan.step_client import LENGTH

# What more than one step of a run imports, by the step that is the first to need it. Some of it is what libraries load
# late: AdamW the compiler, MLflow the store of a local database.
_SHARED: Mapping[str, Sequence[str]] = {
    "ingest": ("ctan.intake.ingest",),
    "preprocess": ("ctan.intake.build", "scipy.ndimage"),
    "train": (
        "ctan.training",
        "ctan.tracking.lineage",
        "torch._dynamo",
        "safetensors.torch",
        "mlflow.pyfunc",
        "mlflow.store.tracking.sqlalchemy_store",
    ),
    "evaluate": ("ctan.evaluation",),
}
_ALL_STEPS = ("ctan.steps", "kfp.dsl.executor_main")
_LONGEST_ADDRESS = 100  # bytes of a socket's path that every system takes


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Start a server for as long as the context lasts; yield the words of a shell that stand for a Python of a step.

    Args:
        folder: of this user alone; receives the socket.
    """
    address = folder / "steps"
    if sys.platform != "linux" or len(os.fsencode(address)) > _LONGEST_ADDRESS:
        yield shlex.quote(sys.executable)
        return
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(address))
        listening.listen()
        server = subprocess.Popen(
            [sys.executable, "-m", "ctan.step_server", str(listening.fileno())],
            stdin=subprocess.PIPE,  # closes when this process dies
            pass_fds=[listening.fileno()],
            # kfp then imports what a step needs, and no more; MLflow looks at its variable when it is imported
            env={"MLFLOW_CONFIGURE_LOGGING": "false"} | os.environ | {"_KFP_RUNTIME": "true"},
        )
    client = [sys.executable, "-I", "-S", str(Path(step_client.__file__)), sys.executable, str(address)]
    try:
        yield shlex.join(client)
    finally:
        server.terminate()
        server.wait()


class _Server:
    """Hands out processes until standard input closes."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self._waiting: dict[int, socket.socket] = {}  # by the process that a client waits for
        self._selector = selectors.DefaultSelector()
        reading, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        reading.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._woken.fileno(), warn_on_full_buffer=False)
        for source, act in ((listening, self._accept), (reading, lambda: self._bury(reading)), (0, self._end)):
            self._selector.register(source, selectors.EVENT_READ, act)

    def serve(self) -> list[str]:
        """Return in every step's process, with its arguments."""
        while True:
            for key, _ in self._selector.select():
                arguments = key.data()
                if arguments is not None:
                    return arguments

    def _end(self) -> None:
        os._exit(0)

    def _accept(self) -> list[str] | None:
        client, _ = self._listening.accept()
        try:
            head, descriptors, _, _ = socket.recv_fds(client, LENGTH.size, 3)
            request = json.loads(client.recv(LENGTH.unpack(head)[0], socket.MSG_WAITALL))
        except (OSError, ValueError, struct.error):
            client.close()
            return None
        _load(request["arguments"])
        process = os.fork()
        if process == 0:
            self._become(request, descriptors)
            arguments: list[str] = request["arguments"]
            return arguments
        for descriptor in descriptors:
            os.close(descriptor)
        self._waiting[process] = client
        self._selector.register(client, selectors.EVENT_READ, lambda: self._left(process))
        return None

    def _left(self, process: int) -> None:
        """End the step of a client that is gone: nobody waits for it."""
        self._selector.unregister(self._waiting[process])
        self._waiting.pop(process).close()
        os.kill(process, signal.SIGTERM)

    def _bury(self, reading: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            reading.recv(4096)
        while True:
            try:
                process, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not process:
                return
            client = self._waiting.pop(process, None)
            if client is not None:
                self._selector.unregister(client)
                code = os.waitstatus_to_exitcode(status)
                with contextlib.suppress(OSError):
                    client.sendall(LENGTH.pack(code if code >= 0 else 256 - code))
                client.close()

    def _become(self, request: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        """Turn a copy of this process into the step's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.close()
        for connection in (self._listening, self._woken, *self._waiting.values()):
            connection.close()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        if numpy := sys.modules.get("numpy"):
            numpy.random.seed()


def _load(arguments: Sequence[str]) -> None:
    """Load what this step and later ones need. What cannot be loaded is left to the step, whose message it is."""
    name = arguments[arguments.index("--function_to_execute") + 1] if "--function_to_execute" in arguments else ""
    for module in _SHARED.get(name, ()):
        with contextlib.suppress(Exception):
            importlib.import_module(module)


def _main() -> None:
    from ctan.step_environment import prepare_step

    prepare_step()
    listening = socket.socket(fileno=int(sys.argv[1]))
    for module in _ALL_STEPS:
        importlib.import_module(module)
    arguments = _Server(listening).serve()
    assert arguments[0] == "-m", arguments
    sys.argv[1:] = arguments[2:]
    runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
