"""`flowshunt provider`: which offload providers there are, and whether one keeps the contract.

`main` has the arguments; `listing` and `checking` do the work. Neither needs Numba.
"""
