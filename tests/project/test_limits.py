"""Workers and threads follow the container's quota and memory, not the node's cores."""

import os
import subprocess
import sys

import pytest

from ctan import limits

GIB = 1024**3


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A node of 64 cores and 256 GiB; the test writes the limits of its container."""
    monkeypatch.setattr(limits, "_ROOT", tmp_path / "cgroup")
    monkeypatch.setattr(limits, "_OWN", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64))
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 256 * GIB // 4096}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)

    def write(own, **files):
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = tmp_path / "cgroup" / name.replace("__", "/").replace("--", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


def test_without_limits_there_is_a_worker_a_core(machine):
    machine("0::/\n", **{"cpu--max": "max 100000\n", "memory--max": "max\n"})
    assert (limits.cores(), limits.memory_bytes(), limits.workers()) == (64, 256 * GIB, 64)


def test_a_pod_of_eight_cores_and_16_gib_starts_six_workers(machine):
    """64 started, of 14.5 GiB together, in a pod of 8."""
    machine("0::/\n", **{"cpu--max": "800000 100000\n", "memory--max": str(16 * GIB)})
    assert limits.cores() == 8
    assert limits.workers() == 6
    assert limits.workers(bytes_each=GIB) == 8
    assert limits.workers(3) == 3
    assert limits.workers(bytes_each=64 * GIB) == 1


def test_the_strictest_of_nested_groups_counts(machine):
    files = {"a__cpu--max": "150000 100000", "a__b__cpu--max": "max 100000", "a__memory--max": str(4 * GIB)}
    machine("0::/a/b\n", **files)
    assert (limits.cores(), limits.memory_bytes()) == (1, 4 * GIB)


def test_groups_of_the_first_version_are_read(machine):
    files = {"cpu__cpu--cfs_quota_us": "400000\n", "cpu__cpu--cfs_period_us": "100000\n"}
    machine("3:cpu,cpuacct:/docker/x\n2:memory:/docker/x\n", **files, **{"memory__memory--limit_in_bytes": str(GIB)})
    assert (limits.cores(), limits.memory_bytes()) == (4, GIB)


def test_threads_follow_unless_somebody_decided(machine, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    machine("0::/\n", **{"cpu--max": "max 100000\n"})
    limits.limit_threads()
    assert "OMP_NUM_THREADS" not in os.environ
    machine("0::/\n", **{"cpu--max": "800000 100000\n"})
    limits.limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "8"
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    limits.limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "2"


def test_threads_wait_without_burning_a_core_that_another_process_needs(monkeypatch):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    limits.limit_threads()
    assert os.environ["GOMP_SPINCOUNT"] == "1000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    limits.limit_threads()
    assert os.environ["GOMP_SPINCOUNT"] == "7"


def test_affinity_of_this_machine_is_followed():
    one = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{one}]); from ctan import limits; print(limits.cores())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
