"""A git repository with data that DVC pins, made without DVC."""

import hashlib
import json
import shutil
import subprocess

import yaml


def md5(body):
    return hashlib.md5(body).hexdigest()


def git(folder, *arguments):
    who = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false", "-c", "init.defaultBranch=main")
    return subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


class Repository:
    """A git repository whose `data.dvc` pins `data/kbp`, written by hand from DVC's documented file formats."""

    def __init__(self, folder, store="data-store", config=""):
        self.folder, self.store = folder, folder / store
        (folder / ".dvc").mkdir(parents=True)
        text = config or "[core]\n    remote = packaged\n['remote \"packaged\"']\n    url = ../data-store\n"
        (folder / ".dvc" / "config").write_text(text)
        git(folder, "init", "--quiet")

    def commit(self, files, tag, write=True):
        """Pin `files` and push them to the store, as `dvc add`, `dvc push` and `git commit` do."""
        listing = [{"md5": md5(body), "relpath": name} for name, body in sorted(files.items())]
        text = json.dumps(listing, sort_keys=True).encode()
        objects = {md5(body): body for body in files.values()} | {f"{md5(text)}.dir": text}
        shutil.rmtree(self.store, ignore_errors=True)
        for name, body in objects.items():
            path = self.store / "files" / "md5" / name[:2] / name[2:]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
        pin = {"outs": [{"path": "data/kbp", "md5": f"{md5(text)}.dir", "hash": "md5", "nfiles": len(files)}]}
        (self.folder / "data.dvc").write_text(yaml.safe_dump(pin))
        git(self.folder, "add", "--all")
        git(self.folder, "commit", "--quiet", "--message", tag)
        git(self.folder, "tag", tag)
        return f"{md5(text)}.dir"

    def object(self, name):
        return self.store / "files" / "md5" / name[:2] / name[2:]
