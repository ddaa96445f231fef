#!/usr/bin/env bash
# Kubeflow Pipelines 2.17.0 (API server; client kfp-server-api 2.17.3): `child_tasks[].pod_name` in the answer about a
# run is no pod's name and no task's id, but `<workflow>-<FNV-1a of 32 bits of the Argo node's path>`.
#
# Behaviour: a task of the answer names neither its node, its pod nor its parent: `pod_name` and `parent_task_id` are
# empty. Its children are named by ids that stand nowhere else. Each is the hash of a path that is not in the answer
# either: names of tasks joined by dots, from the workflow's name on, with "(0)" for the first try. Trying the answer's
# own names explains every id. "Children" are also the steps that come *next*. A pod's name has the template between
# the two parts (`<workflow>-system-container-impl-<hash>`), so `pod_name` is nothing for `kubectl logs`.
# Where it matters: finding the log of a failed step, telling which iteration of a loop a task called `train` or
# `executor` belongs to, or drawing a run's tree, from the API alone.
#
# The answer below is a recorded one, trimmed to names and children, with the ids of tasks and the times left out: no
# server is run here. In four more recorded answers, with loops and retries, all of 258 ids are explained, too.
#
# Run:     findings/kfp-child-pod-name.sh
# Exit:    0 as described; 1 when the client reads it otherwise.
# Seen:
#   kfp-server-api 2.17.3
#   check    -> ctan-retrain-gcdis-1064935313 = hash of ctan-retrain-gcdis(0).root(0).check(0)
#   check(0) -> ctan-retrain-gcdis-3159497828 = hash of ctan-retrain-gcdis(0).root(0).check(0).executor
#   check(0) -> ctan-retrain-gcdis-3345131382 = hash of ctan-retrain-gcdis(0).root(0).condition-1-driver
#   executor -> ctan-retrain-gcdis-1068606287 = hash of ctan-retrain-gcdis(0).root(0).resolve(0).executor(0)
#   executor -> ctan-retrain-gcdis-3807873615 = hash of ctan-retrain-gcdis(0).root(0).check(0).executor(0)
#   20 of 20 ids are hashes of paths made of the 19 names
#   tasks that name their own pod or their parent: 0
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet kfp-server-api==2.17.3
cat > "$folder/show.py" <<'PY'
import json
import sys
from importlib.metadata import version
from types import SimpleNamespace

import kfp_server_api

WORKFLOW = "ctan-retrain-gcdis"
ANSWER = """
check 1064935313
check(0) 3159497828 3345131382
check-driver 631641954
check-driver(0) 4152750954
condition-1
condition-1-driver 1072337269
condition-1-driver(0) 489968533
ctan-retrain-gcdis 3749796437
ctan-retrain-gcdis(0) 218975378
executor 1068606287
executor 3807873615
executor(0)
executor(0)
resolve 638584977
resolve(0) 4091004772 1815256287 3345131382
resolve-driver 635112034
resolve-driver(0) 2459864682
root 3371479632
root(0) 3422983647
root-driver 1411294089
root-driver(0) 2668475625
"""

print("kfp-server-api", version("kfp-server-api"))


def hashed(path):
    """Return the FNV-1a hash, 32 bits, of a path, behind the workflow's name."""
    value = 2166136261
    for byte in path.encode():
        value = ((value ^ byte) * 16777619) & 0xFFFFFFFF
    return f"{WORKFLOW}-{value}"


recorded = []
for line in ANSWER.strip().splitlines():
    name, *numbers = line.split()
    recorded.append({"display_name": name, "child_tasks": [{"pod_name": f"{WORKFLOW}-{number}"} for number in numbers]})
answer = SimpleNamespace(data=json.dumps({"run_details": {"task_details": recorded}}))
tasks = kfp_server_api.ApiClient().deserialize(answer, "V2beta1Run").run_details.task_details

ids = {child.pod_name for task in tasks for child in task.child_tasks}
names = {task.display_name for task in tasks}
paths = {}
above = [WORKFLOW, f"{WORKFLOW}(0)"]
paths.update({hashed(path): path for path in above if hashed(path) in ids})
while above:
    below = [f"{path}.{name}" for path in above for name in names]
    above = [path for path in below if hashed(path) in ids and hashed(path) not in paths]
    paths.update({hashed(path): path for path in above})

for task in sorted(tasks, key=lambda task: task.display_name):
    if task.display_name in ("check", "check(0)", "executor"):
        for child in task.child_tasks:
            print(f"{task.display_name:8} -> {child.pod_name} = hash of {paths.get(child.pod_name)}")
print(f"{len(ids & paths.keys())} of {len(ids)} ids are hashes of paths made of the {len(names)} names")
own = {value for task in tasks for value in (task.pod_name, task.parent_task_id) if value}
print("tasks that name their own pod or their parent:", len(own))
as_described = ids == paths.keys() and len(ids) == 20 and not own
print("as described" if as_described else "the behaviour has CHANGED")
sys.exit(not as_described)
PY
"$folder/venv/bin/python" "$folder/show.py" || exit 1
