"""What `recsys.export` makes a bundle of.

files.py     tables, programs, schema: the files that score
programs.py  what comes after the tables, as torch.export programs
portable.py  the same programs for ONNX Runtime, and compiled ahead of time
alignment.py  vectors turned into the space of an older bundle's
sample.py    rows of the run's data
parity.py    the bundle beside the model on these rows
card.py      the same for people
"""
