"""Errors a user can cause. The command line prints them as one message, without a traceback."""

from __future__ import annotations


class CtanError(Exception):
    """Bad input or a refused action: says what was found, where, what was expected and what to do."""


class ConfigError(CtanError):
    """A setting that does not exist or has a value that is not allowed."""


class CaseError(CtanError):
    """One case cannot be used. Ingestion turns it into a quarantine row instead of stopping."""

    def __init__(self, case_id: str, reason: str) -> None:
        super().__init__(f"{case_id}: {reason}")
        self.case_id = case_id
        self.reason = reason

    def __reduce__(self) -> tuple[type[CaseError], tuple[str, str]]:
        """Pickle with both arguments, so that worker processes can raise it."""
        return (type(self), (self.case_id, self.reason))


class DataError(CtanError):
    """A folder, manifest, store or artifact as a whole cannot be used."""


class KilledError(DataError):
    """A process was killed, or crashed, before it could say why; what it did can be gone on with."""


class StoppedError(CtanError):
    """A training that was watched is not worth going on with."""


class StorageError(DataError):
    """A disk that is full, read-only or not ours to write to; the same command goes on once that is mended."""


class GateError(CtanError):
    """The data did not pass the validation gate."""


class TrackingError(CtanError):
    """The tracking server or the model registry cannot be used, or does not hold what it should."""
