"""The best items of every user of a sequence bundle.

lists.py          files of raw ids: who is asked for, what may be given
run.py            a whole job: from raw events to lists, vectors and a summary
ann.py            where an index lies beside the bundle, and its recall
indexes.py        the ways to search that may miss items: FAISS, funnels, codes
codes.py          where codes lie beside the bundle, and how they are fitted
coding.py         a whole job: codes, and how well they find items
vectors.py        vectors of users and items as files
questions.py      users before their last event, which is to be found
forms.py          smaller forms of the vectors of items
comparison.py     a whole job: what these forms miss
picture.py        and as a picture
held_out.py       two bundles on the last event of each user
compatibility.py  whether users by one find items by the other
"""
