"""Whose trouble it is: what a command reports as the user's to mend, and what as the machine's."""

from __future__ import annotations


class InputError(ValueError):
    """Something that was given can't be used. The message says what, why, and what to do about it."""


class WriteError(OSError):
    """Results can't be written any more (disk full, read-only, gone). What was written before stays whole."""
