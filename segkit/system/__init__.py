"""The ground: errors, files, the machine, processes, progress. Imports nothing of segkit."""
