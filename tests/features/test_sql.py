from datetime import datetime

import polars as pl
import pytest

from features.sql import columns_of, parse_sql

EARLY = datetime(2024, 1, 1, 3, 45)
NAN = float("nan")
DATA = {
    "u": pl.Series([10, 200], dtype=pl.UInt8),
    "v": pl.Series([15, 100], dtype=pl.UInt32),
    "i": pl.Series([-128, 100], dtype=pl.Int8),
    "h": pl.Series([3, 2**63 + 7], dtype=pl.UInt64),
    "x": [NAN, 0.0],
    "f": pl.Series([NAN, 1.5], dtype=pl.Float32),
    "p": [True, False],
    "t": [EARLY, None],
    "s": ["ab", "c"],
    "l": pl.Series([[100, 100], [1]], dtype=pl.List(pl.Int8)),
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("u - v", [-5, 100]),
        ("u - v > 0", [False, True]),
        ("u + u", [20, 400]),
        ("i + i", [-256, 200]),
        ("i * 2", [-256, 200]),
        ("-u", [-10, -200]),
        ("-i", [128, -100]),
        ("abs(i)", [128, 100]),
        ("abs(u - v)", [5, 100]),
        ("round(i * 2)", [-256, 200]),
        ("coalesce(u, 0) - v", [-5, 100]),
        ("greatest(u, i) * 2", [20, 400]),
        ("(case when p then u else i end) - 101", [-91, -1]),
        ("(case when p then 60000 else 0 end) * 60000", [3_600_000_000, 0]),
        ("pow(2, 30 + v % 40)", [2**45, 2**50]),
        ("p + p - 3", [-1, -3]),
        ("(u > 5) + (v > 50) - 3", [-2, -1]),
        ("h - v", [-12, 2**63 - 93]),
        ("h % 10", [3, 5]),
        ("h - h", [0, 0]),
        ("cast(x as int) * 2 + cast(v as smallint) * 10000", [None, 1_000_000]),
        ("extract(hour from t) * 60 + extract(minute from t)", [225, None]),
        ("extract(dow from t) - 200", [-199, None]),
        ("extract(year from t) * 10000000", [20_240_000_000, None]),
        ("dayofyear(t) * 1000", [1000, None]),
        ("length(s) - 5", [-3, -4]),
        ("strpos(s, 'a') - 5", [-4, -5]),
        ("array_length(l) - 5", [-3, -4]),
        ("l[1] * 2", [200, 2]),
        ("bit_count(u) - 5", [-3, -2]),
    ],
)
def test_numbers_do_not_wrap_around(text, expected):
    assert computed(text) == expected


def test_types_stay_where_nothing_is_computed():
    types = pl.DataFrame(DATA).schema
    for column, dtype in types.items():
        assert pl.LazyFrame(DATA).select(parse_sql(f'"{column}"')).collect_schema() == {
            column: dtype
        }
    same = {"coalesce(h, 0)": pl.UInt64, "case when p then u end": pl.UInt8, "f + 1": pl.Float32}
    for text, dtype in same.items():
        assert pl.LazyFrame(DATA).select(x=parse_sql(text)).collect_schema() == {"x": dtype}
    assert computed("coalesce(h, 0)") == [3, 2**63 + 7]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x >= 4", [None, False]),
        ("f >= 4", [None, False]),
        ("f > x", [None, True]),
        ("coalesce(x, 9) > 4", [True, False]),
        ("x / x >= 4", [None, None]),
        ("x / 0 >= 4", [None, None]),
        ("u / 0 >= 4", [True, True]),
        ("ln(i) > 4", [None, True]),
        ("sqrt(i) > 4", [None, True]),
        ("cast('nan' as double) + u > 4", [None, None]),
    ],
)
def test_nan_is_null_to_conditions(text, expected):
    assert computed(text) == expected


def test_what_is_no_number_divides_as_before():
    frame = pl.LazyFrame({"t": [EARLY], "e": [datetime(2024, 1, 1, 1, 45)]})
    found = frame.select(
        half=parse_sql("(t - e) / 2"), decimal=parse_sql("1.5 / extract(hour from t)")
    )
    ((half, decimal),) = found.collect().rows()
    assert (half.total_seconds(), float(decimal)) == (3600, 0.5)
