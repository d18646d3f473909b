"""Evaluations of a suite that takes a second, for tests of everything around them."""

SHORT_EVALUATIONS = """
[evaluations.accuracy]
limit = 40
[evaluations.pgd_l2]
eps = [0.5]
steps = 2
limit = 40
"""
