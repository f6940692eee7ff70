"""Pages: what a file says is text, whatever it says."""

from __future__ import annotations

import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from matplotlib.figure import Figure

from kd_tune import markdown
from kd_tune.blocks import Block, Fact, Facts, Lines, Part, Picture, Prose, TableBlock

HOSTILE = "<script>alert(1)</script> [a](javascript:x) ![b](http://example.org/c.png) | `d`\n# e"
ACTIVE = re.compile(r"(?<!\\)(?:\\\\)*[`\[\]<>|]")  # not behind an odd number of backslashes


@given(st.text())
def test_plain_text_is_one_line_in_which_nothing_is_active(text: str) -> None:
    for shown in (markdown.plain(text), markdown.escaped(text)):
        assert not ACTIVE.search(shown)
        assert len(shown.splitlines()) <= 1


# What GitHub and linkify-it make links of without any mark-up.
BARE_LINK = re.compile(r"//|www\.|@[\w.-]", re.IGNORECASE)


def as_read(shown: str) -> str:
    """The text that a reader of Markdown sees, with escapes and entities read."""
    (inline,) = MarkdownIt().parseInline(shown)
    return "".join(token.content for token in inline.children or [])


@pytest.mark.parametrize(
    "text",
    [
        *(
            "https://example.org/a",
            "see http://example.org.",
            "HTTPS://example.org",
            "ftp://x.org",
            "//x.org",
            "a:///b",
        ),
        *("www.example.org", "(WWW.example.org)", "somebody@example.org", "mailto:somebody@example.org", "@somebody"),
        *("https&#58;//example.org", "https:/&#47;example.org", "https:&sol;&sol;example.org", r"https:\//example.org"),
        *("www&#46;example.org", "www&period;example.org", "somebody&commat;example.org", "&lt;b&gt; &amp; &copy;"),
    ],
)
def test_bare_addresses_are_no_links_and_look_as_they_are(text: str) -> None:
    for shown in (markdown.plain(text), markdown.escaped(text)):
        seen = as_read(shown)
        assert seen.replace("\u200b", "") == text
        assert not BARE_LINK.search(seen)


def test_cells_and_headers_of_a_table_are_text() -> None:
    table = markdown.table(pd.DataFrame({HOSTILE: [HOSTILE, 0.5]}))
    head, rule, *rows = table.splitlines()
    assert (rule, len(rows)) == ("| --- |", 2)
    for line in (head, *rows):
        assert not ACTIVE.search(line.removeprefix("| ").removesuffix(" |"))


@pytest.mark.parametrize("text", ["a: 1\n", "a: '```'\n```\n<script>\n", "`````", ""])
def test_a_block_of_code_ends_where_its_file_ends(text: str) -> None:
    first, *inside, last = markdown.code(text, "yaml").splitlines()
    assert first == f"{last}yaml"
    assert set(last) == {"`"}
    assert len(last) >= 3
    assert all(last not in line for line in inside)


def test_every_value_of_a_page_is_text() -> None:
    hostile = pd.DataFrame({HOSTILE: [HOSTILE]})
    blocks: list[Block] = [
        Facts([Fact(HOSTILE, HOSTILE, HOSTILE)]),
        Lines([HOSTILE]),
        Lines([HOSTILE], code=True),
        TableBlock("table", hostile),
        Picture("accuracy", HOSTILE, Figure()),
    ]
    page = markdown.page(HOSTILE, [Part("part", HOSTILE, [Prose("**ours**"), *blocks])])
    assert "**ours**" in page
    assert "](accuracy.png)" in page
    in_code = "`` " + " ".join(HOSTILE.split()) + " ``"
    assert page.count(in_code) == 1
    text = page.replace(in_code, "")
    assert "<script>" not in text.replace("\\<script", "")
    assert "![b]" not in text


def test_a_table_says_how_many_rows_it_leaves_out() -> None:
    table = TableBlock("failures", pd.DataFrame({"number": range(9)}), most=7)
    page = markdown.page("run", [Part("failures", "Failures", [table])])
    assert "| 6 |" in page
    assert "| 7 |" not in page
    assert "2 more are in `failures.csv`." in page
