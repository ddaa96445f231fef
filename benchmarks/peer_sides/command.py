"""A command in a process of its own: python command.py PROGRAM ARGUMENT ..."""

import json
import os
import resource
import subprocess
import sys

answers = os.fdopen(os.dup(1), "w")
print(json.dumps({"ready": True}), file=answers, flush=True)
for line in sys.stdin:
    if line.strip() != "go":
        print(json.dumps({"saved": ""}), file=answers, flush=True)
        continue
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"cpu": took, "peak": 1024 * after.ru_maxrss, "before": 0}), file=answers, flush=True)
