"""The quality report of a synthetic data set: what a finished directory holds, in numbers, sounds and pages.

Changes no data set, and makes no decision about it.
"""
