"""Data pinned in other ways than by `dvc add`: imports, outputs of stages, cloud versions; and hostile repositories."""

import json
import shutil
import subprocess
import sys

import pytest
import yaml

from ctan.errors import ConfigError, DataError
from ctan.sources.trust import checked_listing, require_secure
from ctan.sources.versions import fetch_version, resolve_version, tree_md5
from tests.helpers.dvc import Repository, git, md5
from tests.helpers.small import files_of

pytest_plugins = ["tests.helpers.s3"]
pytestmark = [
    pytest.mark.skipif(shutil.which("git") is None, reason="needs git to make repositories"),
    pytest.mark.usefixtures("no_credentials"),
]
FILES = {"train-pats/pt_1/ct.csv": b"1,2\n", "voxel.csv": b"5\n"}


def tree(files):
    return tree_md5({name: md5(body) for name, body in files.items()})


def commit(folder, files):
    """Write files and commit them; return the commit."""
    if not (folder / ".git").exists():
        folder.mkdir(parents=True, exist_ok=True)
        git(folder, "init", "--quiet")
    for name, body in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(body if isinstance(body, bytes) else yaml.safe_dump(body).encode())
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "--quiet", "--message", "x")
    return git(folder, "rev-parse", "HEAD").strip()


@pytest.fixture
def registry(tmp_path):
    repository = Repository(tmp_path / "registry")
    repository.md5 = repository.commit(FILES, "v1")
    repository.head = git(repository.folder, "rev-parse", "HEAD").strip()
    return repository


def imported(url, rev_lock, path, pinned):
    return {
        "frozen": True,
        "deps": [{"path": path, "repo": {"url": str(url), "rev_lock": rev_lock}}],
        "outs": [{"md5": pinned, "hash": "md5", "path": "clinic"}],
    }


def test_imported_data_comes_from_the_registry_at_the_commit_of_the_import(registry, tmp_path):
    project = tmp_path / "project"  # without a remote of its own
    commit(
        project, {"clinic.dvc": imported("../registry", registry.head, "data/kbp", registry.md5), ".dvc/config": b""}
    )
    registry.commit(FILES | {"voxel.csv": b"6\n"}, "v2")
    version = resolve_version(f"dvc:{project}@main")
    assert (version.md5, version.path, version.remote) == (registry.md5, "clinic", "../registry")
    assert files_of(fetch_version(version, tmp_path / "out")) == FILES


def test_an_import_of_an_import_is_followed_and_a_ring_is_not(registry, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    head = commit(first, {"clinic.dvc": imported(registry.folder, registry.head, "data/kbp", registry.md5)})
    commit(second, {"clinic.dvc": imported(first, head, "clinic", registry.md5)})
    assert files_of(fetch_version(resolve_version(f"dvc:{second}@main"), tmp_path / "out")) == FILES
    ring = tmp_path / "ring"
    for _ in range(8):  # a repository may import from its own past
        head = commit(ring, {"clinic.dvc": imported(ring, head, "clinic", registry.md5), "n": head.encode()})
    with pytest.raises(DataError, match="imported through more than 5 repositories"):
        fetch_version(resolve_version(f"dvc:{ring}@main"), tmp_path / "other")


def test_an_import_of_a_folder_that_is_in_git_is_copied(tmp_path):
    head = commit(tmp_path / "registry", {f"plain/{name}": body for name, body in FILES.items()})
    project = tmp_path / "project"
    commit(project, {"clinic.dvc": imported(tmp_path / "registry", head, "plain", tree(FILES))})
    assert files_of(fetch_version(resolve_version(f"dvc:{project}@main"), tmp_path / "out")) == FILES


def test_what_cannot_be_followed_is_said(registry, tmp_path):
    inside = imported(registry.folder, registry.head, "data/kbp/train-pats", tree({"pt_1/ct.csv": b"1,2\n"}))
    commit(tmp_path / "a", {"clinic.dvc": inside})
    with pytest.raises(DataError, match="data/kbp/train-pats lies inside data/kbp, which can be had as a whole only"):
        fetch_version(resolve_version(f"dvc:{tmp_path / 'a'}@main"), tmp_path / "out")
    stage = imported(registry.folder, registry.head, "data/kbp", registry.md5)
    stage["deps"][0]["repo"]["config"] = "/etc/passwd"
    commit(tmp_path / "b", {"clinic.dvc": stage})
    with pytest.raises(DataError, match="its import sets config of the registry, which is not followed"):
        resolve_version(f"dvc:{tmp_path / 'b'}@main")
    commit(tmp_path / "c", {"clinic.dvc": imported(registry.folder, registry.head, "data/kbp", tree({"x": b""}))})
    with pytest.raises(DataError, match=r"was imported as \w+.dir, registry at \w+ pins"):
        fetch_version(resolve_version(f"dvc:{tmp_path / 'c'}@main"), tmp_path / "out")
    with pytest.raises(DataError, match="a folder of another machine"):
        fetch_version(resolve_version(f"dvc:file://{tmp_path / 'c'}@main"), tmp_path / "out")


def out(path, files, **more):
    return {"path": path, "hash": "md5", "md5": tree(files), **more}


def test_outputs_of_stages_are_pinned_by_the_lock(registry, tmp_path):
    folder = registry.folder
    stages = {"prepare": {"wdir": "sub", "cmd": "x", "outs": ["ready"]}}
    lock = {"schema": "2.0", "stages": {"prepare": {"cmd": "x", "outs": [out("ready", FILES)]}}}
    commit(folder, {"flow/dvc.yaml": {"stages": stages}, "flow/dvc.lock": lock})
    version = resolve_version(f"dvc:{folder}@main:flow/sub/ready")
    assert (version.md5, version.remote) == (registry.md5, "../data-store")
    assert files_of(fetch_version(version, tmp_path / "out")) == FILES


def test_an_output_that_is_kept_in_git_is_copied_from_there(tmp_path):
    stages = {"each": {"foreach": ["a", "b"], "do": {"cmd": "x", "outs": [{"made/${item}": {"cache": False}}]}}}
    lock = {"stages": {f"each@{item}": {"outs": [out(f"made/{item}", {"x.csv": item.encode()})]} for item in "ab"}}
    files = {"made/a/x.csv": b"a", "made/b/x.csv": b"b"}
    commit(tmp_path / "repo", {"dvc.yaml": {"stages": stages}, "dvc.lock": lock, **files})
    version = resolve_version(f"dvc:{tmp_path / 'repo'}@main:made/b")
    assert files_of(fetch_version(version, tmp_path / "out")) == {"x.csv": b"b"}
    commit(tmp_path / "repo", {"made/b/x.csv": b"c"})
    with pytest.raises(DataError, match="made/b in git is not what was pinned"):
        fetch_version(resolve_version(f"dvc:{tmp_path / 'repo'}@main:made/b"), tmp_path / "other")


def test_stages_that_were_never_run_are_said(tmp_path):
    commit(tmp_path / "repo", {"dvc.yaml": {"stages": {"prepare": {"cmd": "x", "outs": ["ready"]}}}})
    with pytest.raises(DataError, match=r"pin nothing; dvc.yaml has no dvc.lock beside it: `dvc repro`"):
        resolve_version(f"dvc:{tmp_path / 'repo'}@main:ready")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("a.dvc", [1]),
        ("a.dvc", {"outs": [{"md5": "x"}]}),
        ("a.dvc", {"outs": 3}),
        ("dvc.lock", {"stages": [1]}),
        ("dvc.lock", {"stages": {"a": 1}}),
        ("a.dvc", b"\xff\xfe\x00: ["),
        ("a.dvc", {"outs": [{"path": "a", "files": [3]}]}),
    ],
)
def test_files_that_dvc_does_not_write_are_refused(file, content, tmp_path):
    commit(tmp_path / "repo", {file: content})
    with pytest.raises(DataError, match=r"not (valid YAML|a file that DVC writes|one that DVC writes)"):
        resolve_version(f"dvc:{tmp_path / 'repo'}@main")


def test_a_name_that_a_branch_and_a_tag_share_is_refused(registry):
    git(registry.folder, "branch", "v1")
    for address in (str(registry.folder), f"file://{registry.folder}"):
        with pytest.raises(DataError, match=r"registry has a branch and a tag 'v1'; give the commit, or rename one"):
            resolve_version(f"dvc:{address}@v1")
        assert resolve_version(f"dvc:{address}@{registry.head}").md5 == registry.md5


# --- a repository that means harm

ESCAPES = ["../../../escaped", "/tmp/escaped", "a/../../escaped", "a\\..\\b", "a\nb", "", ".", "a//b", "./a", "a/"]


def pin_of(listing, where):
    """Pin a list of files as it is in a repository whose remote is a folder beside it."""
    repository = Repository(where / "repo", "../store", "[core]\n remote = s\n['remote \"s\"']\n url = ../../store\n")
    repository.commit(FILES, "v1")
    text = json.dumps(listing, sort_keys=True).encode()
    repository.object(f"{md5(text)}.dir").parent.mkdir(parents=True, exist_ok=True)
    repository.object(f"{md5(text)}.dir").write_bytes(text)
    commit(repository.folder, {"data.dvc": {"outs": [{"path": "data/kbp", "md5": f"{md5(text)}.dir", "hash": "md5"}]}})
    return resolve_version(f"dvc:{repository.folder}@main")


def everything(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("name", ESCAPES)
def test_a_list_of_files_that_leaves_the_folder_is_refused_before_anything_is_pulled(name, tmp_path):
    good = md5(FILES["voxel.csv"])
    version = pin_of([{"md5": good, "relpath": "voxel.csv"}, {"md5": good, "relpath": name}], tmp_path / "there")
    before = everything(tmp_path)
    with pytest.raises(DataError, match="which is not a path below a folder; nothing was fetched"):
        fetch_version(version, tmp_path / "out")
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    "listing",
    [
        [{"relpath": "a", "md5": "../../../../etc/passwd"}],
        [{"relpath": "a", "md5": "0" * 31 + "G"}],
        [{"relpath": "a", "md5": 5}],
        [{"relpath": 5, "md5": "0" * 32}],
        [{"relpath": "a", "md5": "0" * 32}, {"relpath": "a", "md5": "1" * 32}],
        [{"relpath": "a", "md5": "0" * 32}, {"relpath": "a/b", "md5": "1" * 32}],
        {"relpath": "a"},
        [3],
    ],
)
def test_any_other_list_that_dvc_does_not_write_is_refused(listing):
    with pytest.raises(DataError, match=r"^v: |^v, a: |^v lists"):
        checked_listing(json.dumps(listing).encode(), "v")


@pytest.mark.parametrize("pinned", ["../../../etc.dir", "f" * 32 + "/../x.dir", "F" * 32 + ".dir"])
def test_a_hash_that_is_a_path_is_refused(pinned, tmp_path):
    commit(tmp_path / "repo", {"a.dvc": {"outs": [{"path": "a", "md5": pinned, "hash": "md5"}]}})
    with pytest.raises(DataError, match=r"expected an MD5 \(32 hexadecimal digits.dir\), found"):
        resolve_version(f"dvc:{tmp_path / 'repo'}@main")


@pytest.mark.parametrize("path", ["../../x", "/tmp/x", ".dvc/x"])
def test_data_that_would_lie_elsewhere_is_refused(path, tmp_path):
    files = [{"relpath": "a", "md5": "0" * 32}]
    commit(tmp_path / "repo", {"a.dvc": {"outs": [{"path": path, "hash": "md5", "files": files}]}})
    with pytest.raises(DataError, match=r"not a path below a folder|is no place for data"):
        resolve_version(f"dvc:{tmp_path / 'repo'}@main")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("ssl_verify = false", "sets ssl_verify to something else than true"),
        ("ssl_verify = /tmp/mine.pem", "sets ssl_verify to something else than true"),
        ("credentialpath = /etc/aws/credentials", "no repository must name; set AWS_SHARED_CREDENTIALS_FILE"),
        ("secret_access_key = x", "which belongs to nobody's repository; `dvc remote modify --local`"),
        ("profile = admin", "which belongs to nobody's repository"),
        ("custom_auth_header = X", "not among the options that a repository may decide"),
        ("endpointurl = http://minio.example", "http://minio.example is not encrypted"),
    ],
)
def test_options_that_a_repository_must_not_decide_are_refused(option, message, tmp_path):
    config = f"[core]\n remote = s\n['remote \"s\"']\n url = s3://bucket/dvc\n {option}\n"
    repository = Repository(tmp_path / "repo", config=config)
    repository.commit(FILES, "v1")
    with pytest.raises((DataError, ConfigError), match=message):
        resolve_version(f"dvc:{repository.folder}@main")


def test_another_endpoint_is_remarked_on_and_own_credentials_are_own_business(tmp_path, capsys):
    config = "[core]\n remote = s\n['remote \"s\"']\n url = s3://bucket/dvc\n endpointurl = https://minio.example\n"
    repository = Repository(tmp_path / "repo", config=config)
    repository.commit(FILES, "v1")
    (repository.folder / ".dvc" / "config.local").write_text("['remote \"s\"']\n profile = clinic\n")
    assert resolve_version(f"dvc:{repository.folder}@main").remote == "s3://bucket/dvc"
    assert "remark: repo at " in (said := capsys.readouterr().err)
    assert "sends requests, signed with your credentials, to https://minio.example (endpointurl)" in said


def test_what_is_not_encrypted_needs_a_word_of_the_user(monkeypatch):
    for address in ("https://host/x", "s3://bucket", "ssh://host/x", "/folder", "http://127.0.0.1:9000/x", ""):
        require_secure(address, "x")
    for address in ("http://host/x", "HTTP://host", "git://host/x", "http://127.0.0.1.evil.example/x"):
        with pytest.raises(ConfigError, match=r"is not encrypted, .*; use https://, or allow it with `ctan --insecure"):
            require_secure(address, "x")
    with pytest.raises(ConfigError, match="http://host is not encrypted"):
        resolve_version("dvc:http://host/repo@main")
    monkeypatch.setenv("CTAN_INSECURE", "1")
    require_secure("http://host/x", "x")


# --- made by DVC itself


def dvc(folder, *arguments):
    run = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
def test_what_dvc_itself_imports_and_makes_is_fetched(tmp_path):
    registry, project = tmp_path / "registry", tmp_path / "project"
    for folder in (registry, project):
        folder.mkdir()
        git(folder, "init", "--quiet")
        dvc(folder, "init", "--quiet")
        dvc(folder, "remote", "add", "--default", "store", f"../{folder.name}-store")
    for name, body in FILES.items():
        (registry / "clinic" / name).parent.mkdir(parents=True, exist_ok=True)
        (registry / "clinic" / name).write_bytes(body)
    dvc(registry, "add", "clinic")
    commit(registry, {})
    dvc(registry, "push")
    dvc(project, "import", str(registry), "clinic", "--out", "taken")
    (project / "dvc.yaml").write_text(
        "stages:\n  p:\n    cmd: mkdir made && cp taken/voxel.csv made\n    outs: [made]\n"
    )
    dvc(project, "repro")
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", "x")
    dvc(project, "push")
    for path, files in (("taken", FILES), ("made", {"voxel.csv": FILES["voxel.csv"]})):
        version = resolve_version(f"dvc:{project}@main:{path}")
        assert files_of(fetch_version(version, tmp_path / "out" / path)) == files


@pytest.mark.slow
@pytest.mark.usefixtures("credentials")
def test_cloud_versioned_files_are_fetched_by_their_version_ids(bucket, s3_server, tmp_path):
    s3_server.client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    folder = tmp_path / "team"
    for name, body in FILES.items():
        (folder / "data" / "clinic" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "data" / "clinic" / name).write_bytes(body)
    git(folder, "init", "--quiet")
    dvc(folder, "init", "--quiet")
    dvc(folder, "remote", "add", "--default", "clinic", f"s3://{bucket}/dvc")
    for option, value in (("endpointurl", s3_server.endpoint), ("region", "us-east-1"), ("version_aware", "true")):
        dvc(folder, "remote", "modify", "clinic", option, value)
    dvc(folder, "add", "data/clinic")
    dvc(folder, "push")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "x")
    key = "dvc/data/clinic/voxel.csv"
    assert "version_id" in (folder / "data" / "clinic.dvc").read_text()
    s3_server.put(bucket, {key: b"a newer one\n"})
    version = resolve_version(f"dvc:{folder}@main")
    assert version.md5 == tree(FILES)
    try:
        assert files_of(fetch_version(version, tmp_path / "out")) == FILES
    finally:
        for item in s3_server.client.list_object_versions(Bucket=bucket).get("Versions", ()):
            s3_server.client.delete_object(Bucket=bucket, Key=item["Key"], VersionId=item["VersionId"])
