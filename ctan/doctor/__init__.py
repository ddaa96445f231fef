"""What `ctan doctor` looks at: this machine, and a cluster. Each finding says what to do."""

from ctan.doctor.finding import Finding

__all__ = ["Finding"]
