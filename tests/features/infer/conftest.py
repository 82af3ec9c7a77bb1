"""A proposal of a feature file, checked against its data."""

import polars as pl
import pytest
from proposed import base

from features.checking.result import check_file
from features.infer.proposal import infer
from features.infer.text import feature_text
from features.load import parse_feature_set


@pytest.fixture
def look(tmp_path):
    """Proposal, text and feature set of columns beside those of `base`; None drops one of these."""

    def run(columns=None, *, task="ranking", more=None, asked=None, **attributes):
        content = {k: v for k, v in (base() | (columns or {})).items() if v is not None}
        tables = {"events": content, **attributes} | (more or {})
        files = []
        for name, table in tables.items():
            files.append(tmp_path / f"{name}.parquet")
            frame = table if isinstance(table, pl.DataFrame) else pl.DataFrame(table, strict=False)
            frame.write_parquet(files[-1])
        proposal = infer(files, task=task, asked=asked or {})
        text = feature_text(proposal)
        feature_set = parse_feature_set(text, name="f.yaml")
        check_file(feature_set, proposal.data_dir)
        return text, feature_set

    return run
