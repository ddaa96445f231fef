"""Downloads over HTTP, from small servers on loopback that answer as Dataverse and GitHub do."""

import hashlib
import io
import json
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest

from ctan.errors import ConfigError, DataError
from ctan.sources.download import download
from ctan.sources.http import HttpSource
from ctan.sources.transfer import LEDGER_FILE


def noise(size, seed):
    return hashlib.shake_128(str(seed).encode()).digest(size)


def fetched(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != LEDGER_FILE
    }


class Site(ThreadingHTTPServer):
    """Answers as Dataverse and GitHub do; notes what was asked."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies, self.asked, self.cuts, self.busy, self.ranges = {}, [], [], 0, True
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        server, path = self.server, unquote(self.path)
        server.asked.append((path, self.headers.get("Range")))
        if path.startswith("/redirect"):  # as Dataverse hands files out from a store
            path = path.removeprefix("/redirect")
        elif path.startswith("/api/access"):
            return self.answer(302, b"", {"Location": "/redirect" + path})
        if path == "/away":
            return self.answer(302, b"", {"Location": "http://mirror.example/listing"})
        if server.busy:
            server.busy -= 1
            return self.answer(503, b"", {"Retry-After": "0"})
        if path not in server.bodies:
            return self.answer(404, b"{}")
        body = server.bodies[path]
        etag = f'"{hashlib.sha1(body).hexdigest()}"'
        offset = self.headers.get("Range")
        if not offset or not server.ranges or self.headers.get("If-Range", etag) != etag:
            return self.answer(200, body, {"ETag": etag})
        start = int(offset.removeprefix("bytes=").removesuffix("-"))
        if start >= len(body):
            return self.answer(416, b"")
        found = f"bytes {start}-{len(body) - 1}/{len(body)}"
        return self.answer(206, body[start:], {"ETag": etag, "Content-Range": found})

    def answer(self, status, body, headers=()):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts and len(body) > 10_000 else None
        self.wfile.write(body[:cut])
        self.close_connection = cut is not None


@pytest.fixture
def site():
    site = Site()
    yield site
    site.shutdown()
    site.server_close()


def archive(files):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as content:
        for name, body in files.items():
            content.writestr(name, body)
    return stream.getvalue()


METADATA = b"lesion_id,image_id,dx\nHAM_1,ISIC_0000001,nv\nHAM_2,ISIC_0000002,mel\n"
DOI_LISTING = "/api/datasets/:persistentId/versions/:latest-published/files?persistentId=doi:10.7910/DVN/DBW86T"
HAM10000 = {
    "HAM10000_metadata.csv": METADATA,
    "HAM10000_images_part_1/ISIC_0000001.jpg": noise(200_000, 1),
    "HAM10000_images_part_2/ISIC_0000002.jpg": noise(200_000, 2),
    "HAM10000_segmentations_lesion_tschandl/ISIC_0000001_segmentation.png": b"png1",
    "HAM10000_segmentations_lesion_tschandl/ISIC_0000002_segmentation.png": b"png2",
}


@pytest.fixture
def dataverse(site):
    """The data set's files as Harvard Dataverse lists them; the table is converted, its original kept."""
    files = {
        3172585: ("HAM10000_images_part_1.zip", archive({"ISIC_0000001.jpg": noise(200_000, 1)})),
        3172584: ("HAM10000_images_part_2.zip", archive({"ISIC_0000002.jpg": noise(200_000, 2), "__MACOSX/._x": b""})),
        3838943: (
            "HAM10000_segmentations_lesion_tschandl.zip",
            archive({name: body for name, body in HAM10000.items() if name.endswith("png")}),
        ),
        3855824: ("ISIC2018_Task3_Test_Images.zip", b"not wanted"),
    }
    listing = [
        {
            "label": name,
            "restricted": False,
            "dataFile": {
                "id": number,
                "filename": name,
                "filesize": len(body),
                "md5": hashlib.md5(body).hexdigest(),
                "checksum": {"type": "MD5", "value": hashlib.md5(body).hexdigest()},
            },
        }
        for number, (name, body) in files.items()
    ]
    table = {
        "label": "HAM10000_metadata.tab",
        "dataFile": {
            "id": 4338392,
            "filename": "HAM10000_metadata.tab",
            "filesize": 1,
            "md5": "0" * 32,
            "UNF": "UNF:6:x",
            "originalFileFormat": "text/csv",
            "originalFileName": "HAM10000_metadata",
            "originalFileSize": len(METADATA),
        },
    }
    site.bodies[DOI_LISTING] = json.dumps({"status": "OK", "data": [*listing, table]}).encode()
    site.bodies["/api/access/datafile/4338392?format=original"] = METADATA
    for number, (_, body) in files.items():
        site.bodies[f"/api/access/datafile/{number}"] = body
    return site


def test_ham10000_comes_from_dataverse_and_is_unpacked(dataverse, tmp_path):
    summary = download("ham10000", tmp_path, endpoint=dataverse.url)
    assert fetched(tmp_path) == HAM10000
    assert summary.num_fetched == 4
    assert not any("3855824" in path for path, _ in dataverse.asked)
    dataverse.asked.clear()
    assert download("ham10000", tmp_path, endpoint=dataverse.url).num_fetched == 0
    assert [path for path, _ in dataverse.asked] == [DOI_LISTING]


def test_an_archive_that_would_fill_the_disk_is_refused(dataverse, tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as content:
        content.writestr("ISIC_0000001.jpg", bytes(65 * 2**20))  # 65 MiB in 65 kB
    body = stream.getvalue()
    listing = json.loads(dataverse.bodies[DOI_LISTING])
    entry = listing["data"][0]["dataFile"]
    entry["checksum"]["value"], entry["filesize"] = hashlib.md5(body).hexdigest(), len(body)
    dataverse.bodies[DOI_LISTING] = json.dumps(listing).encode()
    dataverse.bodies["/api/access/datafile/3172585"] = body
    with pytest.raises(DataError, match=r"part_1.zip: a file of the archive has 68,157,440 bytes unpacked"):
        download("ham10000", tmp_path, endpoint=dataverse.url)
    assert not any(path.name.startswith("ISIC") for path in tmp_path.rglob("*"))


def test_an_address_that_is_not_encrypted_is_refused_also_as_a_redirection(site, tmp_path):
    with pytest.raises(ConfigError, match=r"endpoint: http://dataverse.example is not encrypted"):
        download("ham10000", tmp_path / "out", endpoint="http://dataverse.example")
    with pytest.raises(ConfigError, match=r"download: http://mirror.example is not encrypted, .* `ctan --insecure"):
        HttpSource().json(f"{site.url}/away", "listing")
    assert site.asked == [("/away", None)]


def test_pictures_that_were_deleted_bring_the_archive_back(dataverse, tmp_path):
    download("ham10000", tmp_path, endpoint=dataverse.url)
    (tmp_path / "HAM10000_images_part_2" / "ISIC_0000002.jpg").unlink()
    assert download("ham10000", tmp_path, endpoint=dataverse.url).num_fetched == 1
    assert fetched(tmp_path) == HAM10000


def test_a_dataverse_download_is_continued_by_range(dataverse, tmp_path):
    dataverse.cuts = [150_000, 30_000]
    dataverse.busy = 2
    summary = download("ham10000", tmp_path, endpoint=dataverse.url, num_workers=1)
    assert fetched(tmp_path) == HAM10000
    sizes = [len(body) for path, body in dataverse.bodies.items() if path[-7:] in ("3172585", "3172584", "3838943")]
    assert summary.num_bytes == sum(sizes) + len(METADATA)
    assert any(offset == f"bytes={2**17}-" for _, offset in dataverse.asked)


def test_a_server_without_ranges_sends_everything_again(dataverse, tmp_path):
    dataverse.cuts, dataverse.ranges = [150_000], False
    download("ham10000", tmp_path, endpoint=dataverse.url, num_workers=1)
    assert fetched(tmp_path) == HAM10000


def test_an_archive_with_another_md5_is_refused(dataverse, tmp_path):
    path = "/api/access/datafile/3172585"
    dataverse.bodies[path] = dataverse.bodies[path][:-1] + b"x"
    with pytest.raises(DataError, match=r"HAM10000_images_part_1.zip: fetched twice, and both times the md5"):
        download("ham10000", tmp_path, endpoint=dataverse.url)
    assert not (tmp_path / "HAM10000_images_part_1.zip").exists()


def test_more_than_the_disk_holds_is_refused_before_the_start(dataverse, tmp_path):
    listing = json.loads(dataverse.bodies[DOI_LISTING])
    listing["data"][0]["dataFile"]["filesize"] = 10**18
    dataverse.bodies[DOI_LISTING] = json.dumps(listing).encode()
    with pytest.raises(DataError, match=r"the disk has .* GB left and 1000000000.0 GB are to be fetched"):
        download("ham10000", tmp_path, endpoint=dataverse.url)
    assert fetched(tmp_path) == {}


def test_a_part_of_archives_cannot_be_had(dataverse, tmp_path):
    with pytest.raises(ConfigError, match="comes in archives of all cases"):
        download("ham10000", tmp_path, subset=3, endpoint=dataverse.url)


def test_a_listing_that_is_something_else_is_refused(site, tmp_path):
    site.bodies[DOI_LISTING] = b"<html>log in"
    with pytest.raises(DataError, match=r"expected JSON of 127.0.0.1:\d+, found something else"):
        download("ham10000", tmp_path, endpoint=site.url)
    site.bodies[DOI_LISTING] = b'{"data": [{}]}'
    with pytest.raises(DataError, match="in a form that is not known"):
        download("ham10000", tmp_path, endpoint=site.url)


KBP = {
    f"{split}-pats/pt_{number}/{name}.csv": f"{number} {name}\n".encode()
    for split, numbers in {"train": (1, 2, 10), "validation": (201,), "test": (241,)}.items()
    for number in numbers
    for name in ("ct", "dose")
}


@pytest.fixture
def github(site):
    files = {f"provided-data/{name}": body for name, body in KBP.items()} | {"README.md": b"x", "main.py": b"y"}
    tree = [{"path": "provided-data", "type": "tree", "sha": "0" * 40}]
    for name, body in files.items():
        sha = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()  # `git hash-object`
        tree.append({"path": name, "type": "blob", "size": len(body), "sha": sha})
        site.bodies[f"/raw/ababier/open-kbp/HEAD/{name}"] = body
    listing = {"sha": "0" * 40, "tree": tree, "truncated": False}
    site.bodies["/api/v3/repos/ababier/open-kbp/git/trees/HEAD?recursive=1"] = json.dumps(listing).encode()
    return site


def test_openkbp_comes_from_its_repository(github, tmp_path):
    download("openkbp", tmp_path, endpoint=github.url)
    assert fetched(tmp_path) == KBP


def test_a_subset_of_openkbp_has_the_first_patients_of_each_split(github, tmp_path):
    download("openkbp", tmp_path, subset=2, endpoint=github.url)
    patients = {name.split("/")[1] for name in fetched(tmp_path)}
    assert patients == {"pt_1", "pt_2", "pt_201", "pt_241"}


def test_the_sha1_of_git_is_checked(github, tmp_path):
    github.bodies["/raw/ababier/open-kbp/HEAD/provided-data/train-pats/pt_2/ct.csv"] = b"2 CT\n"
    with pytest.raises(DataError, match=r"train-pats/pt_2/ct.csv: fetched twice, and both times the git of what"):
        download("openkbp", tmp_path, endpoint=github.url)


def test_a_file_that_the_site_does_not_have_is_named(github, tmp_path):
    del github.bodies["/raw/ababier/open-kbp/HEAD/provided-data/train-pats/pt_2/ct.csv"]
    with pytest.raises(DataError, match=r"1 of 10 files .* train-pats/pt_2/ct.csv: 127.0.0.1:\d+ does not have it"):
        download("openkbp", tmp_path, endpoint=github.url)


def test_private_data_cannot_be_downloaded(tmp_path):
    with pytest.raises(ConfigError, match="'prostate' cannot be downloaded; allowed: openkbp, ham10000, stoic"):
        download("prostate", tmp_path)
