"""Jupyter kernels: which process a word means, its connection file, and what lives in it.

Nothing is imported here: kernels themselves import a part of it.
"""
