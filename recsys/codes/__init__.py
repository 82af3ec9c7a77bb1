"""Vectors of users and items as a few bits: fitted on those of a trained model, which stay as are.

binariser.py   from vectors to bits, in several steps
packed.py      bits in bytes, and scores of two codes
fitting.py     what makes codes rank items as the vectors do
codebook.py    codes of all items and the binariser of users, as a file
search.py      candidates by their codes, the best of them by their vectors
"""
