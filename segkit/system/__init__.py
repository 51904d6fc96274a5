"""The ground: errors, files, locks, streams, the machine, processes, progress. Imports nothing of segkit."""
