"""Owner's marks: of several that want to train the same, one does; the others wait, or take over from the dead."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ctan.errors import DataError
from ctan.process import is_gone, this_process
from ctan.tracking import owner as module
from ctan.tracking.owner import Mark, Owner
from tests.helpers.s3 import S3Server

pytest_plugins = ["tests.helpers.s3"]


@pytest.fixture(params=["folder", "bucket"])
def address(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.02 if request.param == "folder" else 0.3)
    if request.param == "folder":
        return str(tmp_path / "training")
    request.getfixturevalue("s3_env")
    bucket = request.getfixturevalue("bucket")
    return f"s3://{bucket}/checkpoints/training"


@pytest.fixture
def s3_env(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.helpers.s3 import ACCESS_KEY, SECRET_KEY

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every mark be of a host whose processes cannot be seen from here."""
    monkeypatch.setattr(module, "is_gone", lambda _: None)


def quiet(_: str) -> None:
    pass


def test_of_several_that_begin_at_once_one_trains_and_then_the_next(address: str) -> None:
    at_work, most, done, lock = 0, 0, [], threading.Lock()

    def work(number: int) -> None:
        nonlocal at_work, most
        owner = Owner(address)
        owner.take(quiet)
        with lock:
            at_work += 1
            most = max(most, at_work)
        time.sleep(0.02)
        with lock:
            at_work -= 1
            done.append(number)
        owner.release()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (most, sorted(done)) == (1, list(range(4)))


def test_one_that_looked_long_ago_takes_no_number_that_was_done_with_since(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, late = Owner(address), Owner(address), Owner(address)
    first.take(quiet)
    first.release()
    second.take(quiet)
    looks = iter([[]])
    look = late._place.numbers
    monkeypatch.setattr(late._place, "numbers", lambda: next(looks, None) or look())
    said: list[str] = []
    waiting = threading.Thread(target=late.take, args=(said.append,))
    waiting.start()
    while not said:
        time.sleep(0.01)
    assert "trains this already" in said[0]
    second.check()
    second.release()
    waiting.join(30)
    assert not waiting.is_alive()
    late.release()


def test_the_second_says_who_trains_and_waits(address: str) -> None:
    said: list[str] = []
    first, second = Owner(address), Owner(address)
    first.take(quiet)
    first.note_run("abc")
    waiting = threading.Thread(target=second.take, args=(said.append,))
    waiting.start()
    while not said:
        time.sleep(0.01)
    assert "trains this already" in said[0]
    assert "MLflow run abc" in said[0]
    assert waiting.is_alive()
    first.release()
    waiting.join(30)
    assert not waiting.is_alive()
    second.release()


def test_a_killed_process_of_this_host_is_followed_at_once_and_its_run_handed_on(tmp_path: Path) -> None:
    code = (
        "import sys, os, signal; from ctan.tracking.owner import Owner; o = Owner(sys.argv[1]); "
        "o.take(print); o.note_run('the-run'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "t")]).returncode == -9
    started = time.monotonic()
    owner = Owner(tmp_path / "t")
    assert owner.take(quiet) == "the-run"
    owner.release()
    assert time.monotonic() - started < 10
    assert Owner(tmp_path / "t").take(quiet) == "", "one that said that it is done leaves nothing"


@pytest.mark.usefixtures("elsewhere")
def test_one_elsewhere_is_followed_when_it_was_not_heard_of_for_long(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(module, "LEASE_SECONDS", 4.0)
    first, second = Owner(address), Owner(address)
    first.take(quiet)
    waiting = threading.Thread(target=second.take, args=(quiet,))
    waiting.start()
    waiting.join(6)
    assert waiting.is_alive(), "its mark is renewed"
    first._end.set()  # as if it had been killed
    waiting.join(30)
    assert not waiting.is_alive()
    with pytest.raises(DataError, match="has taken this training over"):
        first.check()
    second.check()
    second.release()


@pytest.mark.usefixtures("elsewhere")
def test_a_clock_that_was_moved_back_makes_no_mark_last_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEASE_SECONDS", 0.3)
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.02)
    first = Owner(tmp_path)
    first.take(quiet)
    first._end.set()
    (mark,) = tmp_path.glob("owner-*.json")
    os.utime(mark, (time.time() + 86400, time.time() + 86400))
    started = time.monotonic()
    second = Owner(tmp_path)
    second.take(quiet)
    assert 0.3 <= time.monotonic() - started < 20


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"owner": 1}', b"[" * 5000, b"\xff\xfe"])
def test_a_damaged_mark_is_nobodys(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "owner-000003.json").write_bytes(content)
    owner = Owner(tmp_path)
    assert owner.take(quiet) == ""
    assert [path.name for path in tmp_path.glob("owner-*")] == ["owner-000004.json"]
    mark, at_work = owner.present()
    assert at_work
    assert mark is not None
    assert mark.process == this_process()


def test_what_a_mark_says_comes_back() -> None:
    mark = Mark("a", this_process(), "run", "2026-01-01 00:00:00 UTC", 3, True)
    assert Mark.read(module._bytes(mark)) == mark
    value = json.loads(module._bytes(mark))
    assert Mark.read(json.dumps(value | {"beat": True}).encode()) is None


def test_processes_are_told_apart_by_their_start_not_by_their_number_alone() -> None:
    me = this_process()
    assert is_gone(me) is False
    before, _, start = me.rpartition("/")
    assert is_gone(f"{before}/{int(start) - 1}") is True, "an earlier process of the same number"
    assert is_gone("other-host/x/y/1/2") is None
    assert is_gone("") is None
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    place = before.rpartition("/")[0]
    identity = f"{place}/{child.pid}/{module_started(child.pid)}"
    assert is_gone(identity) is False
    child.kill()
    child.wait()
    assert is_gone(identity) is True


def module_started(pid: int) -> str:
    from ctan.process import _started

    return _started(pid)
