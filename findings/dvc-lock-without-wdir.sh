#!/usr/bin/env bash
# DVC 3.67.1: a `dvc.lock` does not say which folder its paths are relative to.
#
# Behaviour: paths in `dvc.lock` are relative to the stage's `wdir`, which is left out of the lock. Two stages with
# folders of their own both record `path: model.txt`, with other hashes; no such file lies beside the lock. `wdir`
# stands in `dvc.yaml` alone, where it may be a template (`${item}`, as here) that only DVC resolves.
# Where it matters: whoever reads the lock of a release to find which model and data belong to it (a registry, an audit,
# a script that fetches by hash): the hashes are right, the names are not. Ask DVC (`dvc ls`, `dvc.repo.Repo`), or keep
# `wdir` out of `dvc.yaml`.
#
# Run:     findings/dvc-lock-without-wdir.sh
# Exit:    0 as described; 1 when the behaviour has changed.
# Seen:
#   DVC 3.67.1
#     train@liver:
#       - path: model.txt
#         md5: 407bcb090623995bed822602b4e8903e
#     train@lung:
#       - path: model.txt
#         md5: 3ff122a01762a462b23b93edcc149c9e
#   files: liver/model.txt lung/model.txt
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile dvc==3.67.1
export PATH="$folder/venv/bin:$PATH" DVC_NO_ANALYTICS=1 DVC_SITE_CACHE_DIR="$folder/site"
export DVC_GLOBAL_CONFIG_DIR="$folder/config" DVC_SYSTEM_CONFIG_DIR="$folder/config" GIT_CONFIG_NOSYSTEM=1
export GIT_CONFIG_GLOBAL="$folder/gitconfig"
echo "DVC $(dvc --version)"

mkdir -p "$folder/project/liver" "$folder/project/lung"
cd "$folder/project"
git init --quiet
dvc init --quiet
cat > dvc.yaml <<'YAML'
stages:
  train:
    foreach: [liver, lung]
    do:
      wdir: ${item}
      cmd: echo ${item} > model.txt
      outs: [model.txt]
YAML
dvc repro --quiet
grep -E '^  train|path:|md5: ' dvc.lock
echo "files:" */model.txt
if [[ $(grep -c 'path: model.txt' dvc.lock) -eq 2 && $(grep ' md5: ' dvc.lock | sort -u | wc -l) -eq 2 ]] &&
    ! grep -q wdir dvc.lock && [[ ! -e model.txt && -e liver/model.txt && -e lung/model.txt ]]; then
    echo "as described"
else
    echo "the behaviour has CHANGED"
    exit 1
fi
