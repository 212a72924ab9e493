"""Measurements, as one program: `python -m benchmarks [--only PART]`.

Parts are modules with a function `measure(record)`. Each takes several rounds, so that a figure comes with its
median and spread; ratios are taken within a round, because machines are shared and change from second to second.
"""
