"""Downtime, checkpoint, restore and fork of real kernels, each beside its limit on the
same machine in the same run. ``make bench``, or ``python -m tests.benchmarks --help``.
"""
