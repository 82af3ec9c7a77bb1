import polars as pl
import pytest

from features.sql import columns_of, parse_sql

DATA = {
    "u": [10, 200],
    "v": [15, 100],
    "s": ["ab", "c"],
    "l": [[1], []],
    "Quantile": [1, 2],
    "Agg": [1, 2],
}


def computed(text: str) -> list:
    return pl.LazyFrame(DATA).select(value=parse_sql(text)).collect()["value"].to_list()


@pytest.mark.parametrize(
    "text",
    [
        "sum(u)", "u - avg(u)", "count(*) + u", "corr(u, v)", "covar(u, v)", "covar_samp(u, v)",
        "quantile_cont(u, 0.5)", "quantile_disc(u, 0.5)", "approx_quantile(u, 0.5)", "unnest(l)",
        "string_agg(s, ',')", "sum(u) over (partition by v)",
        "lag(u) over (order by v)", "case when u > max(v) then 1 end",
    ],
)  # fmt: skip
def test_several_rows_are_refused(text):
    with pytest.raises(ValueError, match="looks at several rows"):
        parse_sql(text)


@pytest.mark.parametrize(
    "text",
    [
        "abs(u) as x", "atan2(u, v)", "bit_count(u)", "not (u is null or v is not null)", "ceil(u)",
        "left(s, 1)", "coalesce(u, v)", "erf(u)", "exp(u)", "strpos(s, 'a')", "floor(u)",
        "array_sum(l) + l[1]", "array_unique(l)", "array_to_string(l, ',')", "ln(u) + log1p(v)",
        "greatest(u, v)", "least(u, v)", "pow(u, 2)", "generate_series(u, v)", "sign(u)",
        "u * 2 / v % 3", "u in (1, 2)", "round(u, 1)", "s like 'a%'", "split_part(s, 'a', 1)",
        "s || 'x'", "u between 1 and v", "trunc(u)", "sin(u)", "nullif(u, v)", "cast(u as text)",
        "date('2024-01-31') < t", "extract(epoch from t)", "strftime(t, '%H')", "q.a",
        "dayofweek(t)", "t - interval '1 day' < t", "case u when 1 then v else 2 end",
    ],
)  # fmt: skip
def test_expressions_of_one_row_are_accepted(text):
    assert set(columns_of(text)) <= set("uvsltq")


def test_columns_may_be_called_as_nodes_are():
    assert columns_of('"Quantile" + "Agg" + "Quantile"') == ("Quantile", "Agg")
    assert computed('"Quantile" + "Agg"') == [2, 4]
    assert computed('"Agg"') == [1, 2]
