#!/usr/bin/env bash
# DVC 3.67.1: the address of a registry in an imported `.dvc` file is relative to wherever the next command is started.
#
# Behaviour: `dvc import ../../registry scans.csv`, typed in the folder `cohort`, writes `url: ../../registry` as typed,
# though other paths of a `.dvc` file are relative to that file. `dvc update cohort/scans.csv.dvc`, started in the root
# of the project, looks two folders above the *root*. Where there is no registry it fails; where there is another one,
# its data take the place of the imported ones, with exit status 0. From `cohort` the right registry answers again.
# Where it matters: cohorts shared through a registry on a mounted disk, and scheduled retraining that updates from the
# root what a person imported from a folder below. Give the registry as an absolute path or a URL.
#
# Run:     findings/dvc-import-relative-registry.sh
# Exit:    0 as described; 1 when the behaviour has changed.
# Seen:
#   DVC 3.67.1
#   imported in cohort/: 'cohort of ours', from ../../registry
#   update from the root, no registry two folders above: exit status 1
#   update from the root, another registry there: exit status 0, 'cohort of others'
#   update from cohort/: 'cohort of ours'
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile dvc==3.67.1
export PATH="$folder/venv/bin:$PATH" DVC_NO_ANALYTICS=1 DVC_SITE_CACHE_DIR="$folder/site"
export DVC_GLOBAL_CONFIG_DIR="$folder/config" DVC_SYSTEM_CONFIG_DIR="$folder/config" GIT_CONFIG_NOSYSTEM=1
export GIT_CONFIG_GLOBAL="$folder/gitconfig"
git config --global user.name Someone
git config --global user.email someone@example.org
echo "DVC $(dvc --version)"

registry() { # registry FOLDER TEXT: a registry with one table
    mkdir -p "$1"
    (cd "$1" && git init --quiet && dvc init --quiet && echo "$2" > scans.csv && dvc add --quiet scans.csv &&
        git add . && git commit --quiet --message "Add scans")
}
registry "$folder/a/registry" "cohort of ours"
mkdir -p "$folder/a/project/cohort"
cd "$folder/a/project"
git init --quiet
dvc init --quiet
(cd cohort && dvc import --quiet ../../registry scans.csv) > /dev/null
url=$(sed -n 's/^ *url: //p' cohort/scans.csv.dvc)
imported=$(cat cohort/scans.csv)
echo "imported in cohort/: '$imported', from $url"

missing=0
dvc update --quiet cohort/scans.csv.dvc > /dev/null 2>&1 || missing=$?
echo "update from the root, no registry two folders above: exit status $missing"

registry "$folder/registry" "cohort of others"
other=0
dvc update --quiet cohort/scans.csv.dvc > /dev/null || other=$?
replaced=$(cat cohort/scans.csv)
echo "update from the root, another registry there: exit status $other, '$replaced'"
(cd cohort && dvc update --quiet scans.csv.dvc) > /dev/null
back=$(cat cohort/scans.csv)
echo "update from cohort/: '$back'"

if [[ $url == ../../registry && $imported == "cohort of ours" && $missing -ne 0 && $other -eq 0 &&
    $replaced == "cohort of others" && $back == "cohort of ours" ]]; then
    echo "as described"
else
    echo "the behaviour has CHANGED"
    exit 1
fi
