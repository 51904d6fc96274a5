"""Weights of other programs: `files` opens and downloads them safely, `unets` knows the layouts of published U-Nets, `load` puts
them into a network, `importing` makes a checkpoint of them.

Imports `models`, `data`, `config` and `system`.
"""
