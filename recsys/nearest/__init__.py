"""The items nearest to a user: tensors in, tensors out; nothing is read or written here.

exact.py    the best items by dot product, by a chunked matrix product
"""
