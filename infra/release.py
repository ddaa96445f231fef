"""A release of this checkout in dist/: wheel, image, pipelines that name the image, and what they were made from.

    make release REGISTRY=registry.example.org/project

pushes the image and writes the digest that the registry gives it into every compiled pipeline. Without a registry an
image has no digest: the pipelines then name its tag, and release.json lists what is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctan.cluster.compiled import CompiledPipeline
from ctan.cluster.render import render
from ctan.cluster.values import Values
from ctan.errors import CtanError, DataError
from ctan.files import sha256_of_file, write_json, write_text

ROOT = Path(__file__).parents[1]
CYCLONEDX = "cyclonedx-bom==7.5.0"
REVISION, LOCK, VERSION = "org.opencontainers.image.revision", "ctan.lock.sha256", "org.opencontainers.image.version"


@dataclass(frozen=True)
class Source:
    """What is released: commit (with `-dirty` when files differ from it), its time, version, hash of the lock."""

    commit: str
    unix_time: str
    version: str
    lock_sha256: str

    @property
    def dirty(self) -> bool:
        """Whether the checkout holds what the commit does not."""
        return self.commit.endswith("-dirty")


def main(arguments: list[str] | None = None) -> int:
    """Make a release; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--registry", help="host/project to push the image to; `docker login` comes before")
    parser.add_argument("--image", help="name:tag of an image of this commit that has been built; else it is built")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder, written anew (default: dist)")
    chosen = parser.parse_args(arguments)
    try:
        release(chosen.output, chosen.registry, chosen.image)
    except CtanError as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    return 0


def release(output: Path, registry: str | None = None, image: str | None = None) -> dict[str, Any]:
    """Write a release and return its notes, the content of release.json.

    Args:
        output: folder, replaced when all went well.
        registry: host/project to push to; None makes a local release without a digest.
        image: an image of this commit that exists; None builds it.

    Raises:
        DataError: when the checkout is not clean, the image is not of this commit, or a tool fails.
    """
    source = read_source()
    if source.dirty and (registry or not os.environ.get("ALLOW_DIRTY")):
        raise DataError(
            f"the checkout differs from commit {source.commit.removesuffix('-dirty')}: commit or remove what "
            "`git status` lists. ALLOW_DIRTY=1 makes a release to try out, which is never pushed"
        )
    local = image or build_image(source)
    check_image(local, source)
    reference = push(local, registry, source.version) if registry else local
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".release-") as folder:
        new = Path(folder) / "dist"
        wheel = build_wheel(new, source)
        pipelines = render_pipelines(new, reference)
        write_bill_of_materials(new / "sbom.cdx.json")
        digest = reference.partition("@")[2] or None
        notes = {
            "version": source.version,
            "commit": source.commit,
            "lock_sha256": source.lock_sha256,
            "wheel": wheel.name,
            "image": {"reference": reference, "digest": digest, "id": inspect(local)["Id"]},
            "pipelines": [path.name for path in pipelines],
            "missing": missing(source, registry),
        }
        write_json(new / "release.json", notes)
        files = sorted(path for path in new.iterdir() if path.is_file())
        write_text(new / "SHA256SUMS", "".join(f"{sha256_of_file(path)}  {path.name}\n" for path in files))
        shutil.rmtree(output, ignore_errors=True)
        new.rename(output)
    tell(notes, output)
    return notes


def missing(source: Source, registry: str | None) -> list[str]:
    """Return what this release lacks, as sentences; empty for one that may be deployed."""
    lacks = []
    if not registry:
        lacks.append(
            "image digest: the image was not pushed, so that no registry has given it one; the pipelines name its "
            "tag, which another build can take over. Give REGISTRY=host/project"
        )
    if source.dirty:
        lacks.append("commit: the checkout was not clean, so that no commit holds what was built")
    return lacks


def read_source() -> Source:
    """Return what the checkout holds. New files count as a difference: the image would hold them."""
    commit = run("git", "rev-parse", "HEAD")
    dirty = "-dirty" if run("git", "status", "--porcelain") else ""
    (version,) = re.findall(r'^__version__ = "(.*)"', (ROOT / "ctan/__init__.py").read_text(encoding="utf-8"), re.M)
    lock = sha256_of_file(ROOT / "requirements.lock")
    return Source(commit + dirty, run("git", "log", "-1", "--format=%ct"), version, lock)


def build_image(source: Source) -> str:
    """Build the image and return its name and tag; its output goes to the terminal."""
    run(str(ROOT / "infra/docker/build.sh"), show=True)
    name = "ctan-cuda" if os.environ.get("TORCH") == "cuda" else "ctan"
    return f"{name}:{source.version}"


def inspect(image: str) -> dict[str, Any]:
    """Return what Docker knows of a local image."""
    return json.loads(run("docker", "image", "inspect", image))[0]


def check_image(image: str, source: Source) -> None:
    """Refuse an image that was built from something else than what is released."""
    labels = inspect(image)["Config"]["Labels"] or {}
    for label, wanted in ((REVISION, source.commit), (LOCK, source.lock_sha256), (VERSION, source.version)):
        if labels.get(label) != wanted:
            raise DataError(
                f"image {image}: label {label} is {labels.get(label)!r}, expected {wanted!r}: build it from this commit"
            )


def push(image: str, registry: str, version: str) -> str:
    """Push an image and return its name with the digest that the registry gave it."""
    name = f"{registry.rstrip('/')}/{image.rpartition('/')[2].partition(':')[0]}"
    run("docker", "tag", image, f"{name}:{version}")
    run("docker", "push", f"{name}:{version}", show=True)
    for reference in inspect(f"{name}:{version}")["RepoDigests"]:
        if reference.startswith(f"{name}@sha256:"):
            return reference
    raise DataError(f"image {name}:{version}: was pushed, but Docker knows no digest of it in that registry")


def build_wheel(folder: Path, source: Source) -> Path:
    """Build the wheel from the files that git knows or would take, not from what earlier builds left behind."""
    with tempfile.TemporaryDirectory(prefix="ctan-release-") as copy:
        for name in run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
            if (ROOT / name).is_file() and name.partition("/")[0] != "data-store":
                (Path(copy) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, Path(copy) / name)
        uv = Path(sys.executable).with_name("uv")
        command = [str(uv), "build", "--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable]
        # The time of the commit in the archive: the same commit gives the same wheel, byte by byte.
        run(*command, "--out-dir", str(folder), copy, SOURCE_DATE_EPOCH=source.unix_time)
    (wheel,) = folder.glob("*.whl")
    (folder / ".gitignore").unlink(missing_ok=True)
    return wheel


def write_bill_of_materials(target: Path) -> None:
    """Write every library of the lock, and torch, with version and hashes as CycloneDX 1.6 (JSON)."""
    with tempfile.TemporaryDirectory(prefix="ctan-release-") as folder:
        libraries = Path(folder) / "requirements.txt"
        lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
        (torch,) = re.findall(r"^TORCH_VERSION := (\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
        write_text(libraries, f"{lock}torch=={torch}\n")
        tool = ("uv", "tool", "run", "--quiet", "--from", CYCLONEDX, "cyclonedx-py")
        options = ("--of", "JSON", "--sv", "1.6", "--output-reproducible", "-o", str(target))
        run(str(Path(sys.executable).with_name(tool[0])), *tool[1:], "requirements", str(libraries), *options)


def render_pipelines(folder: Path, image: str) -> list[Path]:
    """Write every compiled pipeline with the image in it, and see that each step names it."""
    written = []
    for path in sorted((ROOT / "pipelines").glob("*.yaml")):
        target = folder / path.name
        write_text(target, render(path.read_text(encoding="utf-8"), Values(image=image), path.name))
        for step, container in CompiledPipeline.read(target).containers.items():
            if container["image"] != image:
                raise DataError(f"{path.name}: step {step} names image {container['image']}, expected {image}")
        written.append(target)
    return written


def tell(notes: dict[str, Any], output: Path) -> None:
    """Print where the release lies and, last, what it lacks."""
    print(f"{output}: {notes['wheel']}, {', '.join(notes['pipelines'])}, image {notes['image']['reference']}")
    for sentence in notes["missing"]:
        print(f"MISSING {sentence}")


def run(*command: str, show: bool = False, **environment: str) -> str:
    """Run a command in the checkout and return what it printed, without the last line's end.

    Raises:
        DataError: when it is not there or fails, with the end of what it said.
    """
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | environment, capture_output=not show, text=True, check=True
        )
    except FileNotFoundError as error:
        raise DataError(f"{command[0]}: is not installed") from error
    except subprocess.CalledProcessError as error:
        said = "" if show else (error.stderr or error.stdout)[-1000:].strip()
        raise DataError(f"{' '.join(command[:3])} failed with status {error.returncode} {said}".rstrip()) from error
    return "" if show else done.stdout.rstrip("\n")


if __name__ == "__main__":
    sys.exit(main())
