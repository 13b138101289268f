"""HTML as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server_jupyter.outputs.markup import html_text

STYLED = """<style>#T_1 {color: red}</style><table id="T_1"><caption>Sales</caption><thead><tr><th class="blank"></th>
<th>units</th><th>price</th></tr></thead><tbody><tr><th>apples</th><td>12</td><td>3.50</td></tr>
<tr><th>figs</th><td>7</td><td>10.25</td></tr></tbody></table>"""


def test_a_styled_frame_is_a_table_of_text() -> None:
    assert html_text(STYLED).split("\n") == [
        "Sales",
        "        units  price",
        "apples     12   3.50",
        "figs        7  10.25",
    ]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("<p>one</p><p>two &amp; <b>three</b></p>", "one\ntwo & three"),
        ("a<script>var x = '<p>';</script>b", "ab"),
        ("<!-- hidden -->seen", "seen"),
        ("<pre>  if a:\n    b</pre>", "  if a:\n    b"),
        ("<table><tr><td colspan=2>a</td></tr><tr><td>b<td>c</table>", "a\nb  c"),
        ("<table><tr><td><table><tr><td>in</td></tr></table></td><td>out</td></tr></table>", "in  out"),
        ("<ul><li>x<li>y</ul>", "x\ny"),
        ('<img alt="a cat" src="data:...">', "[image: a cat]"),
        ('<video src="data:video/mp4;base64,AAAA"></video>', "[video]"),
        ("no markup, 1 < 2", "no markup, 1 < 2"),
    ],
)
def test_what_a_page_says(source: str, text: str) -> None:
    assert html_text(source) == text


@given(st.text(alphabet="<>/=\"' abtdhrpe!-&;\n", max_size=300))
def test_any_markup_is_read(source: str) -> None:
    assert isinstance(html_text(source), str)
