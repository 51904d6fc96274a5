"""Phantoms: synthetic data sets to learn with, to test with, and to try every preset on without a download.

One file a modality draws; the sources write the drawings in their own layouts. Nothing here imports a source.
"""
