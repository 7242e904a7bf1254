"""CSV: a spreadsheet reads back what was written, and takes no cell for a formula."""

from __future__ import annotations

import csv
import io

import pytest

from kasbah.common import csvs


@pytest.mark.parametrize(
    "value",
    [
        '=HYPERLINK("http://evil")',
        "+1",
        "-1+cmd|' /C calc'!A0",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\n=1",
        " =1",
        "\u00a0=1",
        "\uff1d1",
        ["=1", "b"],
    ],
)
def test_no_cell_is_a_formula(value):
    (row,) = csv.DictReader(io.StringIO(csvs.text(["a"], [{"a": value}]), newline=""))
    assert row["a"].startswith("'")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, ""),
        (True, "true"),
        (-3, "-3"),
        ("paris", "paris"),
        (("paris", "lyon"), "paris lyon"),
        ('a "quoted", b\nc', 'a "quoted", b\nc'),
        ("baseline/no-france", "baseline/no-france"),
    ],
)
def test_other_cells_are_what_they_are(value, shown):
    (row,) = csv.DictReader(io.StringIO(csvs.text(["a"], [{"a": value}]), newline=""))
    assert row["a"] == shown


def test_columns_stand_first_and_what_is_none_is_left_out():
    assert csvs.text(["b", "a"], [{"a": 1, "b": 2, "c": 3}]) == "b,a\r\n2,1\r\n"
