"""Errors that end a job in one line: what is wrong, where, and the way out."""

from __future__ import annotations


class JobError(Exception):
    """A failure that a person can act on; shown without a traceback."""


class SourceError(JobError):
    """A source file is missing, unreadable or incomplete."""


class ContractError(JobError):
    """A table breaks its contract: columns, types, key, nulls or NaN."""


class NotAvailable(JobError):
    """An input does not exist, is not checked, or is not what its manifest says."""


class AlreadyRunning(JobError):
    """The same job of the same day is alive in another process."""
