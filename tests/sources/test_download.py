"""Downloads from a real S3 server on loopback, over connections that break."""

import hashlib
import os
import signal
import subprocess
import sys
import time

import pytest

from ctan.errors import ConfigError, DataError
from ctan.sources.download import download
from ctan.sources.s3 import S3Source, S3Uri, open_s3_source, s3_client
from ctan.sources.transfer import LEDGER_FILE, part_path, transfer

pytest_plugins = ["tests.helpers.s3"]

MIB = 2**20
REFERENCE = b"PatientID,probCOVID,probSevere\n2,1,0\n10,0,0\n7,1,1\n"


def noise(size, seed=0):
    return hashlib.shake_128(str(seed).encode()).digest(size)


def stoic_files(prefix="", sizes=None):
    sizes = sizes or {"2": 1000, "7": 2000, "10": 3000}
    scans = {f"{prefix}data/mha/{case}.mha": noise(size, case) for case, size in sizes.items()}
    return {f"{prefix}metadata/reference.csv": REFERENCE, **scans}


def fetched(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != LEDGER_FILE
    }


@pytest.fixture
def stoic(s3_server):
    """The official bucket's name and layout on the local server, which gives it to everyone."""
    files = stoic_files()
    s3_server.put("stoic2021-training", files)
    yield files
    for key in files:
        s3_server.client.delete_object(Bucket="stoic2021-training", Key=key)


# --- STOIC, a public bucket


@pytest.mark.usefixtures("no_credentials")
def test_a_public_bucket_is_downloaded_without_credentials(stoic, s3_server, tmp_path):
    summary = download("stoic", tmp_path / "out", endpoint=s3_server.endpoint)
    assert fetched(tmp_path / "out") == stoic
    assert (summary.num_files, summary.num_fetched, summary.num_bytes) == (4, 4, sum(map(len, stoic.values())))


@pytest.mark.usefixtures("no_credentials")
def test_wrong_credentials_in_the_environment_do_not_matter_for_a_public_bucket(
    stoic, s3_server, monkeypatch, tmp_path
):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "else")
    assert download("stoic", tmp_path / "out", endpoint=s3_server.endpoint).num_fetched == 4


@pytest.mark.usefixtures("no_credentials")
@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "MLFLOW_S3_ENDPOINT_URL"])
def test_the_teams_own_server_is_not_asked_for_a_public_bucket(name, monkeypatch):
    monkeypatch.setenv(name, "http://minio:9000")
    assert s3_client(region="eu-west-3", public=True).meta.endpoint_url == "https://s3.eu-west-3.amazonaws.com"
    assert s3_client().meta.endpoint_url == "http://minio:9000"


@pytest.mark.usefixtures("no_credentials")
def test_running_it_again_fetches_nothing(stoic, s3_server, proxy, tmp_path):
    download("stoic", tmp_path / "out", endpoint=s3_server.endpoint)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.mha")}
    summary = download("stoic", tmp_path / "out", endpoint=proxy.endpoint)
    assert (summary.num_fetched, summary.num_bytes, str(summary)) == (0, 0, "4 files, all complete already")
    assert proxy.num_bytes < 4000  # one listing
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.mha")}


@pytest.mark.usefixtures("no_credentials")
def test_files_that_were_copied_there_by_hand_are_checked_and_kept(stoic, s3_server, tmp_path):
    for name, body in stoic.items():
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body if name != "data/mha/7.mha" else body[:-1] + b"x")
    summary = download("stoic", tmp_path / "out", endpoint=s3_server.endpoint)
    assert (summary.num_fetched, summary.num_bytes) == (1, 2000)
    assert fetched(tmp_path / "out") == stoic


@pytest.mark.usefixtures("no_credentials")
def test_a_file_that_was_damaged_after_the_download_is_fetched_again(stoic, s3_server, tmp_path):
    download("stoic", tmp_path / "out", endpoint=s3_server.endpoint)
    path = tmp_path / "out" / "data" / "mha" / "7.mha"
    path.write_bytes(bytes(2000))
    assert download("stoic", tmp_path / "out", endpoint=s3_server.endpoint).num_fetched == 1
    assert fetched(tmp_path / "out") == stoic


@pytest.mark.parametrize(
    ("subset", "cases"), [(1, ["2"]), (2, ["2", "7"]), (["10", "2"], ["2", "10"]), (9, ["2", "7", "10"])]
)
@pytest.mark.usefixtures("no_credentials")
def test_a_subset_is_the_first_cases_by_number_or_those_named(subset, cases, stoic, s3_server, tmp_path):
    download("stoic", tmp_path, subset=subset, endpoint=s3_server.endpoint)
    expected = {"metadata/reference.csv", *(f"data/mha/{case}.mha" for case in cases)}
    assert set(fetched(tmp_path)) == expected


@pytest.mark.usefixtures("no_credentials")
def test_a_case_that_is_not_there_is_named(stoic, s3_server, tmp_path):
    with pytest.raises(ConfigError, match=r"no case '100'; did you mean 10"):
        download("stoic", tmp_path, subset=["100"], endpoint=s3_server.endpoint)


@pytest.mark.usefixtures("credentials")
def test_a_bucket_of_something_else_is_refused(bucket, s3_server, tmp_path):
    s3_server.put(bucket, {"readme.txt": b"x"})
    with pytest.raises(DataError, match=r"stoic: the source does not hold this data set; it lists 1 files: readme.txt"):
        download("stoic", tmp_path, source=f"s3://{bucket}", endpoint=s3_server.endpoint)


# --- any bucket


@pytest.mark.usefixtures("credentials")
def test_a_mirror_is_read_with_the_credentials_of_the_environment(bucket, s3_server, tmp_path):
    s3_server.put(bucket, stoic_files("team/stoic/"))
    download("stoic", tmp_path, source=f"s3://{bucket}/team/stoic", endpoint=s3_server.endpoint)
    assert fetched(tmp_path) == stoic_files()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "no access: these credentials may not read it"),
        ({"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "x"}, "does not know the access key"),
        ({"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "x"}, "secret key does not belong to the access key"),
    ],
)
@pytest.mark.usefixtures("no_credentials")
def test_what_is_wrong_with_the_credentials_is_said(environment, message, bucket, s3_server, monkeypatch, tmp_path):
    s3_server.put(bucket, stoic_files())
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DataError, match=message):
        download("stoic", tmp_path, source=f"s3://{bucket}", endpoint=s3_server.endpoint)


@pytest.mark.usefixtures("credentials")
def test_a_bucket_that_does_not_exist_is_named(s3_server, tmp_path):
    with pytest.raises(DataError, match=r"s3://no-such-bucket/: there is no such bucket"):
        download("stoic", tmp_path, source="s3://no-such-bucket", endpoint=s3_server.endpoint)


@pytest.mark.usefixtures("credentials")
def test_a_server_that_does_not_answer_is_an_error_not_a_traceback(unused_port, tmp_path):
    with pytest.raises(DataError, match="cannot be reached"):
        download("stoic", tmp_path, source="s3://some-bucket", endpoint=f"http://127.0.0.1:{unused_port}")


@pytest.fixture
def unused_port():
    from tests.helpers.s3 import free_ports

    return free_ports(1)[0]


@pytest.mark.parametrize("uri", ["bucket/prefix", "s3://", "s3://UPPER/x", "http://x/y"])
def test_an_address_of_another_form_is_refused(uri, tmp_path):
    with pytest.raises(ConfigError, match="s3://bucket/prefix"):
        download("stoic", tmp_path, source=uri)


# --- broken connections


@pytest.mark.usefixtures("credentials")
def test_a_connection_that_breaks_is_continued_where_it_stopped(bucket, s3_server, proxy, tmp_path):
    files = stoic_files(sizes={"1": 3 * MIB})
    s3_server.put(bucket, files)
    proxy.cuts = [MIB, MIB // 2]
    summary = download("stoic", tmp_path, source=f"s3://{bucket}", endpoint=proxy.endpoint, num_workers=1)
    assert fetched(tmp_path) == files
    assert proxy.cuts == []
    assert summary.num_bytes <= 3 * MIB + len(REFERENCE)  # nothing came twice
    assert proxy.num_bytes < 3.2 * MIB


@pytest.mark.usefixtures("credentials")
def test_a_server_that_never_gets_on_is_given_up(bucket, s3_server, proxy, monkeypatch, tmp_path):
    monkeypatch.setattr("ctan.sources.transfer.MAX_FAILURES_WITHOUT_PROGRESS", 2)
    s3_server.put(bucket, {"1.mha": noise(MIB)})
    source = S3Source(S3Uri.parse(f"s3://{bucket}"), s3_client(proxy.endpoint))
    files = source.listing()
    proxy.cuts = [300_000] + [1] * 200
    with pytest.raises(DataError, match=r"1 of 1 files could not be fetched: 1.mha: the connection broke 2 times in a"):
        transfer(files, source, tmp_path, 1)
    proxy.cuts.clear()
    assert transfer(files, source, tmp_path, 1).num_bytes < MIB - 200_000
    assert fetched(tmp_path) == {"1.mha": noise(MIB)}


@pytest.mark.usefixtures("credentials")
def test_after_a_kill_only_the_rest_is_fetched(bucket, s3_server, proxy, tmp_path):
    size = 4 * MIB
    files = stoic_files(sizes={"1": size})
    s3_server.put(bucket, files)
    proxy.bytes_per_second = MIB
    code = (
        "import sys; from pathlib import Path; from ctan.sources.download import download; "
        "download('stoic', Path(sys.argv[1]), source=sys.argv[2], endpoint=sys.argv[3])"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), f"s3://{bucket}", proxy.endpoint])
    deadline = time.monotonic() + 60
    while proxy.num_bytes < size // 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    (part,) = tmp_path.rglob("*.part")
    had = part.stat().st_size
    assert 0 < had < size
    assert not (tmp_path / "data" / "mha" / "1.mha").exists()

    proxy.bytes_per_second = proxy.num_bytes = 0
    summary = download("stoic", tmp_path, source=f"s3://{bucket}", endpoint=proxy.endpoint)
    assert fetched(tmp_path) == files
    assert size - had <= summary.num_bytes <= size - had + len(REFERENCE)
    assert proxy.num_bytes < size - had + 20_000


@pytest.mark.usefixtures("credentials")
def test_several_workers_fetch_everything_once(bucket, s3_server, proxy, tmp_path):
    files = stoic_files(sizes={str(number): 20_000 + number for number in range(40)})
    s3_server.put(bucket, files)
    proxy.cuts = [30_000, 5_000, 10_000]
    summary = download("stoic", tmp_path, source=f"s3://{bucket}", endpoint=proxy.endpoint, num_workers=6)
    assert fetched(tmp_path) == files
    assert summary.num_fetched == len(files)
    assert summary.num_bytes <= sum(map(len, files.values()))


# --- bytes that are not those listed


@pytest.mark.usefixtures("credentials")
def test_damage_on_the_way_is_noticed_and_fetched_again(bucket, s3_server, proxy, tmp_path):
    body = noise(MIB) + b"marker of the test" + noise(MIB, 1)
    s3_server.put(bucket, {"a.bin": body})
    proxy.damage = (b"marker of the test", b"marker of the tent")
    source = S3Source(S3Uri.parse(f"s3://{bucket}"), s3_client(proxy.endpoint))
    with pytest.raises(DataError, match=r"a.bin: fetched twice, and both times the (checksum|ETag)"):
        transfer(source.listing(), source, tmp_path)
    assert fetched(tmp_path) == {}
    proxy.damage = None
    transfer(source.listing(), source, tmp_path)
    assert fetched(tmp_path) == {"a.bin": body}


@pytest.mark.usefixtures("credentials")
def test_an_object_replaced_after_the_listing_is_noticed(bucket, s3_server, tmp_path):
    s3_server.put(bucket, {"a.bin": b"old", "b.bin": b"stays"})
    source = S3Source(S3Uri.parse(f"s3://{bucket}"), s3_client(s3_server.endpoint))
    files = source.listing()
    s3_server.put(bucket, {"a.bin": b"new"})
    with pytest.raises(DataError, match=r"1 of 2 files .* a.bin: changed at the source since it was listed; run again"):
        transfer(files, source, tmp_path)
    assert fetched(tmp_path) == {"b.bin": b"stays"}
    transfer(source.listing(), source, tmp_path)
    assert fetched(tmp_path)["a.bin"] == b"new"


@pytest.mark.usefixtures("credentials")
def test_a_part_of_older_bytes_is_not_continued(bucket, s3_server, tmp_path):
    old, new = noise(MIB, "old"), noise(MIB, "new")
    s3_server.put(bucket, {"a.bin": old})
    source = S3Source(S3Uri.parse(f"s3://{bucket}"), s3_client(s3_server.endpoint))
    (file,) = source.listing()
    part_path(tmp_path / "a.bin", file.identity).write_bytes(old[: MIB // 2])
    s3_server.put(bucket, {"a.bin": new})
    transfer(source.listing(), source, tmp_path)
    assert fetched(tmp_path) == {"a.bin": new}  # and no part is left


@pytest.mark.usefixtures("credentials")
def test_a_missing_object_is_named_and_the_others_arrive(bucket, s3_server, tmp_path):
    s3_server.put(bucket, {"a.bin": b"1", "b.bin": b"2"})
    source = S3Source(S3Uri.parse(f"s3://{bucket}"), s3_client(s3_server.endpoint))
    files = source.listing()
    s3_server.client.delete_object(Bucket=bucket, Key="a.bin")
    with pytest.raises(DataError, match=r"a.bin: the source lists it but does not have it"):
        transfer(files, source, tmp_path)
    assert fetched(tmp_path) == {"b.bin": b"2"}


@pytest.mark.usefixtures("credentials")
def test_an_upload_in_parts_is_checked_part_by_part(bucket, s3_server, tmp_path):
    body = noise(12 * MIB)
    s3_server.put_in_parts(bucket, "big.mha", body, 5 * MIB)
    source = S3Source(S3Uri.parse(f"s3://{bucket}"), s3_client(s3_server.endpoint))
    (file,) = source.listing()
    assert file.identity.endswith("-3")
    transfer([file], source, tmp_path)
    assert (tmp_path / "big.mha").read_bytes() == body
    assert source.checked_by_size == set()
    (tmp_path / "other").write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    assert "the ETag of what arrived is" in source.problem(file, tmp_path / "other")


@pytest.mark.usefixtures("credentials")
def test_a_full_disk_is_said_and_stops_everything(bucket, s3_server, tmp_path):
    s3_server.put(bucket, {"a.bin": noise(100_000)})
    source = S3Source(S3Uri.parse(f"s3://{bucket}"), s3_client(s3_server.endpoint))
    (file,) = source.listing()
    part_path(tmp_path / "a.bin", file.identity).symlink_to("/dev/full")
    with pytest.raises(DataError, match=r"a.bin: the disk is full; make room and run again"):
        transfer([file], source, tmp_path)


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/x", "a\\..\\b"])
def test_names_that_leave_the_folder_are_refused(name, tmp_path):
    from ctan.sources.transfer import RemoteFile

    with pytest.raises(DataError, match="not a path below a folder"):
        transfer([RemoteFile(name, 1, "md5:x", "x")], None, tmp_path / "out")


# --- s3:// as a source of raw files


@pytest.mark.usefixtures("credentials")
def test_a_bucket_is_a_source_that_is_cached_and_follows_the_bucket(bucket, s3_server, tmp_path):
    s3_server.put(bucket, {"raw/a/1.csv": b"one", "raw/b 2.csv": b"two", "raw/é.csv": b"three", "other/x": b"no"})
    uri = f"s3://{bucket}/raw"
    with open_s3_source(uri, tmp_path, endpoint=s3_server.endpoint) as folder:
        assert fetched(folder) == {"a/1.csv": b"one", "b 2.csv": b"two", "é.csv": b"three"}
    s3_server.put(bucket, {"raw/b 2.csv": b"changed"})
    s3_server.client.delete_object(Bucket=bucket, Key="raw/a/1.csv")
    with open_s3_source(uri, tmp_path, endpoint=s3_server.endpoint) as again:
        assert again == folder
        assert fetched(folder) == {"b 2.csv": b"changed", "é.csv": b"three"}
        assert not (folder / "a").exists()


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "MLFLOW_S3_ENDPOINT_URL"])
@pytest.mark.usefixtures("credentials")
def test_the_endpoint_comes_from_the_environment(name, bucket, s3_server, monkeypatch):
    s3_server.put(bucket, {"a.csv": b"one"})
    monkeypatch.setenv(name, s3_server.endpoint)
    with open_s3_source(f"s3://{bucket}") as folder:
        assert fetched(folder) == {"a.csv": b"one"}
    assert not folder.exists()


@pytest.mark.usefixtures("credentials")
def test_an_empty_prefix_is_an_error(bucket, s3_server, tmp_path):
    s3_server.put(bucket, {"raw-other/a.csv": b"one"})
    with (
        pytest.raises(DataError, match=r"holds no objects; check bucket and prefix"),
        open_s3_source(f"s3://{bucket}/raw", tmp_path, endpoint=s3_server.endpoint),
    ):
        pass


def test_importing_is_light():
    code = "import ctan.sources.download, sys; print([m for m in ('boto3', 'requests', 'dvc') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert out.stdout.strip() == "[]"


def test_an_address_has_a_bucket_and_a_prefix():
    assert str(S3Uri.parse("s3://my-bucket/a/b/")) == "s3://my-bucket/a/b/"
    assert S3Uri.parse("s3://my-bucket") == S3Uri("my-bucket", "")
