"""Work in other processes: one that dies or hangs costs its item, and none outlives the process that began it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ctan.errors import ConfigError
from ctan.workers import Lost, run_isolated


def do(item):
    if item == "die":
        os._exit(3)
    if item == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "hang":
        time.sleep(600)
    if item == "raise":
        raise KeyError("secret")
    if item == "refuse":
        raise ConfigError("wrong setting")
    if str(item).startswith("die once"):  # and leave a note that it did
        note = Path(item.removeprefix("die once "))
        if not note.exists():
            note.touch()
            os._exit(1)
    return str(item).upper()


def outcomes(items, num_workers=1, seconds=60.0):
    found = dict(run_isolated(do, items, num_workers, seconds))
    assert sorted(found) == list(range(len(items)))
    return [found[number] for number in range(len(items))]


def test_every_item_has_its_result_at_its_position():
    assert outcomes(list("abcde"), num_workers=2) == list("ABCDE")
    assert list(run_isolated(do, [], 2, 1.0)) == []


def test_a_process_that_dies_costs_its_item_alone():
    first, killed, died, last = outcomes(["a", "killed", "die", "b"])
    assert (first, last) == ("A", "B")
    assert (killed.died, died.died) == (True, True)
    assert "signal 9" in killed.reason
    assert "exit status 3" in died.reason


def test_an_item_whose_process_died_is_tried_once_more_when_others_are_done(tmp_path):
    assert outcomes([f"die once {tmp_path / 'note'}", "b"], num_workers=2)[1] == "B"
    assert (tmp_path / "note").exists()
    assert not isinstance(outcomes([f"die once {tmp_path / 'other'}"])[0], Lost)


def test_an_item_that_hangs_is_ended_and_the_others_are_done():
    hung, fine = outcomes(["hang", "b"], seconds=1.0)
    assert hung == Lost("not done after 1 s")
    assert fine == "B"


def test_an_unexpected_error_costs_the_item_and_says_its_kind_without_its_text():
    assert outcomes(["raise", "b"]) == [Lost("KeyError"), "B"]


def test_a_wrong_setting_ends_all_work():
    with pytest.raises(ConfigError, match="wrong setting"):
        list(run_isolated(do, ["refuse", "hang"], 2, 60.0))


SCRIPT = """
import os, sys, time
from pathlib import Path
from ctan.workers import run_isolated

def stay(folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(600)

if __name__ == "__main__":
    list(run_isolated(stay, [sys.argv[1]] * 2, 2, 600.0))
"""


def wait_until(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("did not come about within a minute")


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_no_worker_outlives_a_killed_parent(tmp_path):
    (tmp_path / "stay.py").write_text(SCRIPT)
    (tmp_path / "pids").mkdir()
    with subprocess.Popen([sys.executable, str(tmp_path / "stay.py"), str(tmp_path / "pids")]) as parent:
        wait_until(lambda: len(list((tmp_path / "pids").iterdir())) == 2)
        pids = [int(path.name) for path in (tmp_path / "pids").iterdir()]
        assert all(is_running(pid) for pid in pids)
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: not any(is_running(pid) for pid in pids))
