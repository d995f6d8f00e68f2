"""The tables of benchmarks/README.md are those of the files that the studies wrote."""

import pytest

from benchmarks import tables


def test_the_page_shows_what_the_files_hold():
    page = tables.PAGE.read_text(encoding="utf-8")
    assert tables.render(page) == page


def test_a_table_that_the_page_lacks_is_named():
    page = tables.PAGE.read_text(encoding="utf-8").replace("<!-- fuzz -->", "")
    with pytest.raises(ValueError, match="fuzz"):
        tables.render(page)
