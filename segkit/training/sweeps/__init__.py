"""Sweeps: Optuna proposes, every trial is a training in a process of its own, and nothing that has finished is ever lost.

The run folders decide; the study (Optuna's storage) follows them. Whoever holds the lock of a trial's folder is working on it, and the
kernel frees a lock when its process dies: so a killed trial is known at once, on every machine that shares the folder.
"""
