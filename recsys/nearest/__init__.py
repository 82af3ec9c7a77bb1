"""The items nearest to a user: tensors in, tensors out; nothing is read or written here.

exact.py    the best items by dot product, by a chunked matrix product
index.py    about the best, from an index of FAISS
two_steps.py   about the best by a cheap search, scored anew by whole vectors
"""
