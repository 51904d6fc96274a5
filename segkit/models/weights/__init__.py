"""Weights of other programs: `files` opens and downloads them safely, `load` puts them into a network and knows the layouts
of published U-Nets (unets.yaml), `importing` makes a checkpoint of them.

Imports `models`, `data`, `config` and `system`.
"""
