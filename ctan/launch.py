"""One step's work in several processes on this machine, started by `torchrun`'s own agent.

When one of them ends in an error or is killed, all end within seconds, and the error is raised here. When the process
that started them is gone, however that ended, they end too.
"""

from __future__ import annotations

import importlib
import logging
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctan.errors import CtanError, DataError, KilledError
from ctan.process import end_with

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

_WORK, _RESULT, _ERROR = "work.pickle", "result.pickle", "error-{rank}.pickle"
_GRACE_SECONDS = 20  # between asking processes to stop and killing them
_AT_ONCE_SECONDS = 2.0
_HANDLED = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")


def run_in_processes(function: str, num_processes: int, *arguments: Any, again: str) -> Any:
    """Call a function in several processes that know of each other, and return what the first one returns.

    Args:
        function: `"module:name"`.
        num_processes: on this machine.
        arguments: of the function; can be pickled.
        again: what happens when the same is started again, a sentence for the error.

    Raises:
        CtanError: that a process raised; or naming the process that was killed and the signal.
        RuntimeError: naming the process and its error, for any other error.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with tempfile.TemporaryDirectory(prefix="ctan-") as name, _quiet_agent(), _threads_for(num_processes):
        folder = Path(name)
        (folder / _WORK).write_bytes(pickle.dumps((function, arguments, os.getpid())))
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=num_processes,
            run_id=folder.name,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            local_addr="localhost",
            logs_specs=DefaultLogsSpecs(log_dir=str(folder / "agent")),
            shutdown_timeout=_GRACE_SECONDS,
        )
        try:
            elastic_launch(config, sys.executable)("-m", "ctan.launch", str(folder))
        except ChildFailedError as error:
            raise _cause(folder, error.failures, num_processes, again) from None
        except SignalException as stopped:
            if stopped.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise SystemExit(128 + stopped.sigval) from None
        return _load(folder / _RESULT)


def _load(file: Path) -> Any:
    """Return what these processes tell each other, in a folder of their own that nobody else can write to."""
    return pickle.loads(file.read_bytes())  # noqa: S301


def _cause(folder: Path, failures: dict[int, ProcessFailure], num_processes: int, again: str) -> BaseException:
    """Return what ended the others: the first error, but none that follows from the loss of another process."""
    raised = []
    for rank in range(num_processes):
        file = folder / _ERROR.format(rank=rank)
        if file.exists():
            raised.append(_load(file))
    ours = [entry for entry in raised if isinstance(entry[1], CtanError)]
    if ours:
        return min(ours, key=lambda entry: entry[0])[1]
    first = min((seconds for seconds, *_ in raised), default=float("inf"))
    for failure in failures.values():  # the agent itself kills those that do not stop, later
        if (
            failure.exitcode < 0
            and -failure.exitcode != signal.SIGTERM
            and failure.timestamp <= first + _AT_ONCE_SECONDS
        ):
            name = signal.Signals(-failure.exitcode).name
            hint = " (perhaps for want of memory)" if name == "SIGKILL" else ""
            what = f"process {failure.local_rank} of {num_processes} was ended by {name}{hint}"
            return KilledError(f"{what}, the others were stopped. {again}")
    if raised:
        _, error, rank = min(raised, key=lambda entry: ("Connection" in str(entry[1]), entry[0]))
        error.add_note(f"in process {rank} of {num_processes}; its traceback is above")
        return error
    codes = ", ".join(f"process {rank}: exit code {failure.exitcode}" for rank, failure in sorted(failures.items()))
    return DataError(f"{codes}, of {num_processes}; what they said is above. {again}")


@contextmanager
def _quiet_agent() -> Iterator[None]:
    """Keep the agent's own report away from the console, and give signals back to who had them."""
    logger = logging.getLogger("torch.distributed.elastic")
    level = logger.level
    in_main_thread = threading.current_thread() is threading.main_thread()
    handlers = {name: signal.getsignal(getattr(signal, name)) for name in _HANDLED}
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, handler in handlers.items() if in_main_thread else ():
            signal.signal(getattr(signal, name), handler)


@contextmanager
def _threads_for(num_processes: int) -> Iterator[None]:
    """Divide the cores among the processes, unless the user has said how many threads each takes."""
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // num_processes))
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]


def _work(folder: Path) -> None:
    """Do the work of one process."""
    from ctan.step_environment import prepare_step

    function, arguments, parent = _load(folder / _WORK)
    rank = int(os.environ["RANK"])
    end_with(parent)
    prepare_step()
    module, _, name = function.partition(":")
    try:
        result = getattr(importlib.import_module(module), name)(*arguments)
        if rank == 0:
            (folder / _RESULT).write_bytes(pickle.dumps(result))
    except Exception as error:
        if not isinstance(error, CtanError):
            traceback.print_exc()
        (folder / _ERROR.format(rank=rank)).write_bytes(_pickled(error, rank))
        sys.stderr.flush()
        os._exit(1)  # the interpreter's end would wait for the other processes, which wait for this one


def _pickled(error: Exception, rank: int) -> bytes:
    """Return when, which error and where; an error that does not survive pickling as its text."""
    now = time.time()
    try:
        content = pickle.dumps((now, error, rank))
        pickle.loads(content)  # noqa: S301 - what was pickled on the line above
    except Exception:
        return pickle.dumps((now, RuntimeError(f"{type(error).__name__}: {error}"), rank))
    return content


if __name__ == "__main__":
    _work(Path(sys.argv[1]))
