"""The audit: checks of files and split, warnings about what looks wrong, and the report. Imports nothing above `data`."""

from segkit.data.audit.audit import AuditResult, Prepared, inspect, load_labelled, prepare

__all__ = ["AuditResult", "Prepared", "inspect", "load_labelled", "prepare"]
