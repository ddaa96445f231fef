"""The end of a pipeline's run: what was left open is closed, the end written down, and told to whoever wants to know.

The same serves the last step of both pipelines, on a cluster and here, and a run here that is stopped half-way.
"""

from ctan.ending.end import end, end_here

__all__ = ["end", "end_here"]
