"""Which tables a training can begin with: those whose ids are the values that they were."""

from migration.made import schema

from recsys.training.continuing import tables_of_other_ids

TEXT = """
tables:
  colors: {scheme: decoupled}
features:
  - {name: user, kind: categorical}
  - {name: color, kind: categorical, table: colors}
  - {name: shade, kind: categorical, table: colors}
"""
NAMES = ["user", "user_output", "colors@attention", "colors@representation@target"]


def other_ids(**values):
    return tables_of_other_ids(schema(TEXT), schema(TEXT, values), names=NAMES)


def test_tables_whose_ids_are_other_values():
    assert other_ids() == set()
    assert other_ids(user="abdcefghi") == {"user", "user_output"}
    assert other_ids(shade="bacdefghi") == {"colors@attention", "colors@representation@target"}
    assert other_ids(user="abc", color="abc") == {*NAMES}
