"""A release, made from a copy of this checkout, with a small image in place of the large one and a real registry."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import ctan
from tests.helpers.s3 import free_ports
from tests.helpers.workloads import http_status, wait_until

ROOT = Path(ctan.__file__).parents[1]
IMAGE = f"ctan-release-test:{ctan.__version__}"
PIPELINES = sorted(path.name for path in (ROOT / "pipelines").glob("*.yaml"))


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=tests", "-c", "user.email=tests@example.org"]
    return subprocess.check_output(["git", "-C", str(folder), *identity, *arguments], text=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clean checkout, whose one commit holds what this one's files hold now."""
    copy = tmp_path / "checkout"
    listed = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", ":!data-store")
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    git(copy, "init", "--quiet")
    git(copy, "add", "--all")
    git(copy, "commit", "--quiet", "--message", "everything")
    return copy


@pytest.fixture
def image(checkout: Path, tmp_path: Path) -> Iterator[str]:
    """A small image with the labels of one that was built from the checkout."""
    labels = {
        "org.opencontainers.image.revision": git(checkout, "rev-parse", "HEAD").strip(),
        "org.opencontainers.image.version": ctan.__version__,
        "ctan.lock.sha256": hashlib.sha256((checkout / "requirements.lock").read_bytes()).hexdigest(),
    }
    with tarfile.open(tmp_path / "root.tar", "w") as archive:
        archive.add(checkout / "README.md", "README.md")
    changes = [f"--change=LABEL {name}={value}" for name, value in labels.items()]
    subprocess.run(["docker", "import", *changes, str(tmp_path / "root.tar"), IMAGE], check=True, capture_output=True)
    yield IMAGE
    subprocess.run(["docker", "image", "rm", "--force", IMAGE], check=False, capture_output=True)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Debian's registry on loopback, unpacked rather than installed: host:port."""
    folder = tmp_path_factory.mktemp("registry")
    program = shutil.which("docker-registry") or _unpacked(folder)
    (port,) = free_ports(1)
    settings = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    (folder / "config.yml").write_text(yaml.safe_dump(settings))
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([program, "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        wait_until(lambda: http_status(f"http://127.0.0.1:{port}/v2/", "127.0.0.1") == 200, server)
        yield f"127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def _unpacked(folder: Path) -> str:
    try:
        subprocess.run(["apt-get", "download", "docker-registry"], cwd=folder, check=True, capture_output=True)
        (package,) = folder.glob("docker-registry_*.deb")
        subprocess.run(["dpkg-deb", "--extract", str(package), str(folder)], check=True, capture_output=True)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        pytest.skip(f"SKIPPED, NO REGISTRY TO PUSH TO: Debian's package docker-registry cannot be had here ({error})")
    return str(folder / "usr/bin/docker-registry")


def make_release(checkout: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the checkout's release script into its folder dist."""
    command = [sys.executable, str(checkout / "infra/release.py"), "--image", IMAGE, *options]
    known = {name: value for name, value in os.environ.items() if name != "ALLOW_DIRTY"}
    return subprocess.run(command, env=known | environment, capture_output=True, text=True, check=False)


def images_of(pipeline: Path) -> set[str]:
    spec = next(yaml.safe_load_all(pipeline.read_text(encoding="utf-8")))
    return {executor["container"]["image"] for executor in spec["deploymentSpec"]["executors"].values()}


def notes_of(checkout: Path) -> dict[str, Any]:
    return json.loads((checkout / "dist/release.json").read_text(encoding="utf-8"))


def test_a_pushed_release_names_the_registrys_digest_everywhere(checkout: Path, image: str, registry: str) -> None:
    made = make_release(checkout, "--registry", f"{registry}/project")
    assert made.returncode == 0, made.stderr
    assert "MISSING" not in made.stdout
    name = image.partition(":")[0]
    request = urllib.request.Request(
        f"http://{registry}/v2/project/{name}/manifests/{ctan.__version__}",
        headers={"Accept": "application/vnd.docker.distribution.manifest.v2+json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        digest = "sha256:" + hashlib.sha256(response.read()).hexdigest()
    reference = f"{registry}/project/{name}@{digest}"
    for pipeline in PIPELINES:
        assert images_of(checkout / "dist" / pipeline) == {reference}
    notes = notes_of(checkout)
    assert notes["image"]["reference"] == reference
    assert notes["image"]["digest"] == digest
    assert notes["commit"] == git(checkout, "rev-parse", "HEAD").strip()
    assert notes["lock_sha256"] == hashlib.sha256((ROOT / "requirements.lock").read_bytes()).hexdigest()
    assert notes["missing"] == []
    subprocess.run(["docker", "image", "rm", "--force", f"{registry}/project/{image}"], check=True, capture_output=True)

    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=checkout / "dist", check=True)
    bill = json.loads((checkout / "dist/sbom.cdx.json").read_text(encoding="utf-8"))
    listed = {f"{library['name']}=={library['version']}" for library in bill["components"]}
    locked = re.findall(r"^([\w.-]+==[\w.-]+)", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.M)
    assert {line for line in locked if not line.startswith("torch==")} <= listed
    assert any(line.startswith("torch==") for line in listed)
    summed = {line.split("  ")[1] for line in (checkout / "dist/SHA256SUMS").read_text().splitlines()}
    assert summed | {"SHA256SUMS"} == {path.name for path in (checkout / "dist").iterdir()}


def test_a_release_without_a_registry_says_that_the_digest_is_missing(checkout: Path, image: str) -> None:
    (checkout / "build/lib/ctan").mkdir(parents=True)
    (checkout / "build/lib/ctan/removed_long_ago.py").touch()  # setuptools would take it from there
    made = make_release(checkout)
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[-1].startswith("MISSING image digest")
    notes = notes_of(checkout)
    assert notes["image"]["digest"] is None
    assert len(notes["missing"]) == 1
    assert all(images_of(checkout / "dist" / pipeline) == {image} for pipeline in PIPELINES)
    assert git(checkout, "status", "--porcelain") == ""
    wheel = checkout / "dist" / notes["wheel"]
    first = wheel.read_bytes()
    _check_wheel(wheel, checkout)
    assert make_release(checkout).returncode == 0
    assert wheel.read_bytes() == first, "the same commit gives the same wheel"


def _check_wheel(wheel: Path, checkout: Path) -> None:
    """It holds every source, profile and pipeline of the commit and nothing else, and runs where it is installed."""
    tracked = git(checkout, "ls-files", "ctan", "components", "pipelines").split()
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == set(tracked)
    venv = checkout.parent / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    uv = str(Path(sys.executable).with_name("uv"))
    install = [uv, "pip", "install", "--quiet", "--no-deps", "--offline", "--python", f"{venv}/bin/python", str(wheel)]
    subprocess.run(install, check=True)
    # The libraries are this environment's; its own ctan is not among them, as it is found by way of a .pth file.
    environment = os.environ | {"PYTHONPATH": sysconfig.get_path("purelib")}
    where = "import ctan, pipelines, components; print(ctan.__file__, pipelines.__file__, components.__file__)"
    for command in ([f"{venv}/bin/python", "-c", where], [f"{venv}/bin/ctan", "render"]):
        done = subprocess.run(command, env=environment, cwd=venv, capture_output=True, text=True, check=True)
        if "-c" in command:
            assert all(path.startswith(str(venv)) for path in done.stdout.split())
    assert done.stdout == (checkout / "pipelines/ctan.yaml").read_text(encoding="utf-8")


def test_a_changed_checkout_is_refused_unless_it_is_only_tried_out(checkout: Path, image: str) -> None:
    (checkout / "ctan/new_module.py").touch()
    refused = make_release(checkout)
    assert refused.returncode == 1
    assert "ALLOW_DIRTY=1" in refused.stderr
    pushed = make_release(checkout, "--registry", "127.0.0.1:1/project", ALLOW_DIRTY="1")
    assert pushed.returncode == 1
    assert "never pushed" in pushed.stderr
    other = make_release(checkout, ALLOW_DIRTY="1")
    assert other.returncode == 1, "the image is of the clean commit"
    assert "label org.opencontainers.image.revision" in other.stderr
    assert not (checkout / "dist").exists()


def test_an_image_of_another_commit_is_refused(checkout: Path, image: str) -> None:
    git(checkout, "commit", "--quiet", "--allow-empty", "--message", "one more")
    refused = make_release(checkout)
    assert refused.returncode == 1
    assert "build it from this commit" in refused.stderr
