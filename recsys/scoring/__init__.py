"""Bulk scoring with a bundle: a plan of parts, each scored and written whole, in any order.

job.py        what is to be scored, and what is wrong with that
files.py      which Parquet files are read: folders, globs, hive partitions, URLs
plan.py       how they are cut into parts; what makes two runs the same
output.py     the output folder: plan, finished parts, completion
reading.py    a part's raw events, checked, and what is wrong with them
histories.py  what users did before, for bundles that read it
scorer.py     a loaded bundle
parts.py      a part from raw events to scores
users.py      vectors of users, and the items that fit them best; threads.py shares out the work
counts.py     what is counted of each part; summary.py adds it up and compares it with training
run.py        all parts, in this process or several (workers.py), when it loads no torch itself
"""
