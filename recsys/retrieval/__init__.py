"""The best items of every user of a sequence bundle.

lists.py          files of raw ids: who is asked for, what may be given
run.py            a whole job: from raw events to lists, vectors and a summary
ann.py            search through an index beside the bundle, and its recall
vectors.py        vectors of users and items as files
held_out.py       two bundles on the last event of each user
compatibility.py  whether users by one find items by the other
"""
