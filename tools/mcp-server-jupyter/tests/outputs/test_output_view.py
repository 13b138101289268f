"""What an agent sees of outputs: within the budget, readable, with the error."""

from __future__ import annotations

import base64
import io
import random
import re
from typing import Any

import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_server_jupyter.outputs import (
    View,
    collapse_carriage_returns,
    is_heavy,
    page,
    plain_text,
    slice_text,
    strip_ansi,
    view,
)

HANDLE = "output://x1"


def stream(text: Any, name: str = "stdout") -> dict[str, Any]:
    return {"output_type": "stream", "name": name, "text": text}


def shown(data: dict[str, Any]) -> dict[str, Any]:
    return {"output_type": "display_data", "data": data, "metadata": {}}


def more(cursor: int) -> str:
    return f"{HANDLE} from {cursor}"


def seen(*outputs: Any, chars: int = 8000, images: int = 4, image_bytes: int = 1_000_000) -> View:
    return view(outputs, max_chars=chars, max_images=images, max_image_bytes=image_bytes, more=more)


def picture(width: int, height: int, kind: str = "PNG", *, noise: bool = False) -> str:
    from PIL import Image

    image = Image.new("RGB", (width, height), "white")
    if noise:
        image = Image.frombytes("RGB", (width, height), random.Random(1).randbytes(width * height * 3))
    out = io.BytesIO()
    image.save(out, kind)
    return base64.encodebytes(out.getvalue()).decode()


def size_of(data_b64: str) -> tuple[int, int]:
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(data_b64, validate=True))) as image:
        return image.size


# ------------------------------------------------------------------ text


def test_short_output_is_shown_as_it_is() -> None:
    result = seen(stream("hello\n"), shown({"text/plain": "42"}))
    assert (result.text, result.images, result.truncated) == ("hello\n42", [], False)


@pytest.mark.parametrize(
    ("raw", "shown_text"),
    [
        ("a\rb", "b"),
        ("long text\rshort", "shorttext"),
        ("long text\r\x1b[Kshort", "short"),
        ("one\r\ntwo\r\n", "one\ntwo\n"),
        ("ab\b\bcd", "cd"),
        ("  5%|# |\r 50%|###|\r100%|####|\ndone", "100%|####|\ndone"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("nothing special", "nothing special"),
    ],
)
def test_carriage_returns_and_backspaces_do_what_a_terminal_does(raw: str, shown_text: str) -> None:
    assert collapse_carriage_returns(raw) == shown_text


@pytest.mark.parametrize(
    ("raw", "stripped"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]8;;http://a/b\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b(Bplain", "plain"),
        ("unfinished\x1b[3", "unfinished"),
        ("unfinished\x1b", "unfinished"),
    ],
)
def test_control_sequences_are_stripped(raw: str, stripped: str) -> None:
    assert strip_ansi(raw) == stripped


def test_nothing_is_folded_that_fits() -> None:
    text = "warning\n" * 500 + "end\n"
    result = seen(stream(text))
    assert result.text == text.rstrip("\n")
    assert not result.truncated


def test_equal_lines_are_folded() -> None:
    result = seen(stream("working\n" * 5000 + "end\n"))
    assert result.text == f"working\n… 4,999 identical lines\nend\n… the whole: {more(0)} …"
    assert result.truncated


def test_long_runs_of_lines_that_differ_in_digits_keep_first_and_last() -> None:
    result = seen(stream("".join(f"epoch {n} loss {1 - n / 1000:.3f}\n" for n in range(1000))))
    assert result.text == (f"epoch 0 loss 1.000\n… 998 similar lines\nepoch 999 loss 0.001\n… the whole: {more(0)} …")


@pytest.mark.parametrize("odd", ["epoch 500 loss nan", "epoch 500 loss 57.123", "epoch 500 loss inf"])
def test_a_line_that_stands_out_of_its_run_is_kept(odd: str) -> None:
    lines = [f"epoch {n} loss {1 - n / 1000:.3f}" for n in range(1000)]
    lines[500] = odd
    assert odd in seen(stream("\n".join(lines))).text.split("\n")


def test_rows_of_a_table_are_not_folded() -> None:
    table = "\n".join(f"row {n}   {n * n}   {n / 7:.4f}" for n in range(2000))
    result = seen(stream(table), chars=2000)
    assert "similar" not in result.text
    assert result.text.startswith(table[:800])
    assert result.text.endswith(table[-600:])


def test_a_few_numbers_are_not_folded() -> None:
    text = "\n".join(str(number * number) for number in range(30))
    assert seen(stream(text)).text == text


def test_a_progress_bar_is_shown_in_its_last_state() -> None:
    bar = "".join(f"\r{n:3}%|{'#' * (n // 10):10}|" for n in range(101))
    assert seen(stream(bar + "\n", "stderr")).text == "[stderr]\n100%|##########|"


def words(count: int) -> str:
    chance = random.Random(7)
    return "".join(f"{chance.choice('abcdefgh') * chance.randint(1, 30)} {n}\n" for n in range(count))


def test_long_text_keeps_head_and_tail_and_says_where_the_rest_is() -> None:
    text = words(100_000)
    result = seen(stream(text), chars=2000)
    assert result.truncated
    assert 1500 < len(result.text) <= 2000
    head, rest = result.text.split("\n… ", 1)
    note, tail = rest.split(" …\n", 1)
    assert text.startswith(head)
    assert text.endswith(tail + "\n")
    assert f"; {HANDLE} from " in note
    cursor = int(note.rpartition(" ")[2])
    assert slice_text([stream(text)], cursor, 10)[0] == text[len(head) + 1 :][:10]
    assert note.split(" lines")[0] == f"{100_000 - head.count(chr(10)) - tail.count(chr(10)) - 2:,}"


def test_the_cursor_counts_what_came_before_and_ignores_colours() -> None:
    lines = words(3000).splitlines()
    coloured = "".join(f"\x1b[31m{line}\x1b[0m\n" for line in lines)
    outputs = [shown({"text/plain": "before"}), stream(coloured), shown({"text/plain": "after"})]
    result = seen(*outputs, chars=1500)
    shown_head, rest = result.text.split("\n… ", 1)
    cursor = int(rest.split(" …\n")[0].rpartition(" ")[2])
    page, _ = slice_text(outputs, cursor, 5)
    following = lines[shown_head.count("\n")]
    assert following.startswith(page.rstrip("\n"))


def test_one_line_of_a_megabyte_keeps_both_ends() -> None:
    result = seen(stream("start" + "x" * 1_000_000 + "end"), chars=500)
    assert result.text.startswith("start")
    assert result.text.endswith("end")
    assert len(result.text) <= 500


def test_a_small_output_is_whole_beside_a_huge_one() -> None:
    small = "the answer is 42"
    result = seen(stream(words(5000)), shown({"text/plain": small}), stream(words(5000)), chars=3000)
    assert small in result.text
    assert len(result.text) <= 3000


def test_thousands_of_outputs_show_the_first_and_the_last() -> None:
    result = seen(*(shown({"text/plain": f"output {n} " + "x" * 50}) for n in range(3000)), chars=2000)
    assert "output 0 " in result.text
    assert "output 2999 " in result.text
    assert "outputs omitted" in result.text


# ------------------------------------------------------------------ errors


def traceback_of(depth: int) -> dict[str, Any]:
    rule = "\x1b[31m" + "-" * 75 + "\x1b[39m"
    frames = [
        f"\x1b[36mFile \x1b[32m~/lib/deep.py:{n}\x1b[39m, in f{n}(x)\n      1 a\n----> {n} f{n + 1}(x)\n      3 b"
        for n in range(depth)
    ]
    own = "\x1b[36mCell\x1b[39m\x1b[36m In[3]\x1b[39m\x1b[32m, line 2\x1b[39m\n      1 x = 1\n----> 2 go(x)"
    return {
        "output_type": "error",
        "ename": "ValueError",
        "evalue": "no such thing",
        "traceback": [
            rule,
            "\x1b[31mValueError\x1b[39m      Traceback (most recent call last)",
            own,
            *frames,
            "\x1b[31mValueError\x1b[39m: no such thing",
        ],
    }


def test_a_short_traceback_is_whole() -> None:
    text = seen(traceback_of(1)).text
    assert "----> 2 go(x)" in text
    assert text.endswith("ValueError: no such thing")
    assert "\x1b" not in text


def test_a_deep_traceback_keeps_the_cells_frame_and_the_last_ones() -> None:
    text = seen(traceback_of(300)).text
    assert "----> 2 go(x)" in text
    assert "f298(x)" in text
    assert "f299(x)" in text
    assert "frames omitted" in text
    assert text.endswith("ValueError: no such thing")
    assert len(text) <= 3000


def test_a_flood_of_text_cannot_squeeze_the_error_out() -> None:
    result = seen(stream(words(50_000)), traceback_of(50), stream(words(50_000)), chars=1200)
    assert "ValueError: no such thing" in result.text
    assert "----> 49 f50(x)" in result.text
    assert len(result.text) <= 1200


def test_the_message_survives_in_the_smallest_of_answers() -> None:
    assert "ValueError: no such thing" in seen(traceback_of(50), stream(words(100)), chars=60).text


def test_frames_of_libraries_are_short_and_own_ones_keep_their_code() -> None:
    library = "File /x/site-packages/pandas/core/frame.py:9, in get(self)\n      8 before\n----> 9 raise KeyError(k)"
    own = "Cell In[1], line 2\n      1 df = load()\n----> 2 df['zzz']"
    error = {
        "output_type": "error",
        "ename": "KeyError",
        "evalue": "'zzz'",
        "traceback": [own, library, "KeyError: 'zzz'"],
    }
    assert seen(error).text == (
        "Cell In[1], line 2\n      1 df = load()\n----> 2 df['zzz']\n"
        "File …/pandas/core/frame.py:9, in get(self)\n----> 9 raise KeyError(k)\nKeyError: 'zzz'"
    )


def test_a_chained_exception_keeps_both_messages() -> None:
    text = seen(
        {
            "output_type": "error",
            "ename": "RuntimeError",
            "evalue": "wrapped",
            "traceback": [
                "-" * 75,
                "ValueError                  Traceback (most recent call last)",
                "Cell In[1], line 2\n----> 2 int('x')",
                "\nValueError: invalid literal",
                "\nThe above exception was the direct cause of the following exception:\n",
                "Cell In[1], line 4\n----> 4 raise RuntimeError('wrapped') from e",
                "RuntimeError: wrapped",
            ],
        }
    ).text
    assert text.index("ValueError: invalid literal") < text.index("direct cause") < text.index("RuntimeError: wrapped")
    assert text.count("RuntimeError: wrapped") == 1


def test_endless_recursion_is_shown_once() -> None:
    frames = ["Cell In[2], line 2, in f(n)\n----> 2 f(n + 1)"] * 900
    error = {
        "output_type": "error",
        "ename": "RecursionError",
        "evalue": "deep",
        "traceback": [*frames, "RecursionError: deep"],
    }
    assert seen(error).text.count("f(n + 1)") == 2


def test_groups_of_two_lines_are_folded() -> None:
    notice = "".join(f"/tmp/a.py:2: Notice: w {n}\n  notices.tell('w')\n" for n in range(600))
    assert seen(stream(notice)).text == (
        "/tmp/a.py:2: Notice: w 0\n  notices.tell('w')\n… 1,196 similar lines\n"
        f"/tmp/a.py:2: Notice: w 599\n  notices.tell('w')\n… the whole: {more(0)} …"
    )


def test_work_for_a_thread_is_told_from_work_for_the_loop() -> None:
    assert not is_heavy([stream("x"), shown({"image/png": picture(30, 20)})], max_image_bytes=1_000_000)
    assert is_heavy([shown({"image/png": picture(3000, 20)})], max_image_bytes=1_000_000)
    assert is_heavy([shown({"image/png": picture(100, 100, noise=True)})], max_image_bytes=1_000)
    assert is_heavy([stream("x" * 11_000_000)], max_image_bytes=1_000_000)


def test_an_error_of_another_language_is_shown_with_its_name() -> None:
    error = {"output_type": "error", "ename": "ERROR", "evalue": "object 'x' not found", "traceback": []}
    assert seen(error).text == "ERROR: object 'x' not found"


# ------------------------------------------------------------------ rich outputs


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"text/plain": "plain", "text/html": "<b>html</b>"}, "plain"),
        ({"text/plain": "plain", "text/markdown": "**md**"}, "**md**"),
        ({"application/json": {"a": [1, 2]}}, '{"a":[1,2]}'),
        ({"text/latex": ["$x", "$"]}, "$x$"),
        ({"text/html": "<style>p{}</style><table><tr><td>1</td><td>a &lt; b</td></tr></table>"}, "1  a < b"),
        ({"image/svg+xml": "<svg><text>peak</text></svg>"}, "[SVG picture: peak]"),
        ({"application/x-unknown": "?"}, "[application/x-unknown: not shown]"),
        ({"text/plain": "<IPython.core.display.HTML object>", "text/html": "<h1>Q3</h1><p>up</p>"}, "Q3\nup"),
        (
            {"text/plain": "<IPython.core.display.HTML object>", "text/html": "<script>1</script>"},
            "[HTML without words]",
        ),
        ({"text/plain": "<IPython.core.display.JSON object>", "application/json": {"a": 1}}, '{"a":1}'),
        (
            {"text/plain": "<a.IFrame at 0x7f>", "text/html": '<iframe src="u.html">'},
            "[frame: u.html]",
        ),
        ({"text/plain": "<Figure size 640x480 with 1 Axes>"}, "<Figure size 640x480 with 1 Axes>"),
    ],
)
def test_the_best_text_form_is_chosen(data: dict[str, Any], text: str) -> None:
    # Where SVG can be drawn, the line of its picture follows.
    assert seen(shown(data)).text.partition("\n[image 1: image/svg+xml")[0] == text


def test_an_image_comes_as_it_is_when_it_fits() -> None:
    result = seen(shown({"image/png": picture(30, 20), "text/plain": "<Figure size 640x480 with 1 Axes>"}))
    (image,) = result.images
    assert image.mime == "image/png"
    assert "\n" not in image.data_b64
    assert size_of(image.data_b64) == (30, 20)
    assert "30×20" in result.text
    assert "Figure" not in result.text


def test_a_large_image_is_scaled_down_to_1568_pixels() -> None:
    (image,) = seen(shown({"image/png": picture(4000, 1000)})).images
    assert size_of(image.data_b64) == (1568, 392)
    assert "4000×1000" in image.note


def test_a_heavy_image_is_made_to_fit_its_bytes() -> None:
    (image,) = seen(shown({"image/png": picture(600, 600, noise=True)}), image_bytes=50_000).images
    assert len(base64.b64decode(image.data_b64)) <= 50_000


@pytest.mark.parametrize(("kind", "mime"), [("JPEG", "image/jpeg"), ("GIF", "image/gif"), ("WEBP", "image/webp")])
def test_other_bitmaps_are_shown_too(kind: str, mime: str) -> None:
    (image,) = seen(shown({mime: picture(30, 20, kind)})).images
    assert image.mime in ("image/png", "image/jpeg")
    assert size_of(image.data_b64) == (30, 20)


def test_images_over_the_number_are_named() -> None:
    result = seen(*(shown({"image/png": picture(9, 9)}) for _ in range(5)), images=2)
    assert len(result.images) == 2
    assert result.truncated
    assert result.text.count("[image/png: not shown; ") == 3
    assert "[image 2: " in result.text


def test_images_are_numbered_after_those_that_come_before() -> None:
    figure = shown({"image/png": picture(30, 20)})
    result = view([figure], max_chars=800, max_images=4, max_image_bytes=10**6, more=more, numbered=3)
    assert result.text.startswith("[image 4: ")


def test_a_page_shows_the_image_that_was_left_out() -> None:
    figures = [shown({"image/png": picture(30 + at, 20)}) for at in range(5)]
    outputs = [figures[0], stream("x" * 300), *figures[1:]]
    cursor: int | None = 0
    sizes: list[tuple[int, int]] = []
    for _ in range(20):
        assert cursor is not None
        _, images, cursor = page(outputs, cursor, max_chars=1_000, max_images=2, max_image_bytes=10**6)
        sizes += [size_of(image.data_b64) for image in images]
        if cursor is None:
            break
    assert sizes == [(30 + at, 20) for at in range(5)]
    left_out = seen(*outputs, images=2)
    named = re.search(r"image/png: not shown; .*? from (\d+)", left_out.text)
    assert named is not None
    _, images, _ = page(outputs, int(named[1]), max_chars=1_000, max_images=1, max_image_bytes=10**6)
    assert size_of(images[0].data_b64) == (32, 20)


def test_all_images_of_an_answer_together_are_bounded() -> None:
    figures = [shown({"image/png": picture(200, 200, noise=True)}) for _ in range(4)]
    result = view(figures, max_chars=2_000, max_images=9, max_image_bytes=10**6, more=more, max_base64=400_000)
    assert 1 <= len(result.images) < 4
    assert sum(len(image.data_b64) for image in result.images) <= 400_000
    assert result.text.count("not shown; ") == 4 - len(result.images)


def test_an_image_embedded_in_a_text_is_shown_and_its_data_are_not() -> None:
    data = picture(100, 100, noise=True)
    for bundle in (
        {"text/html": f"<p>see</p><img src='data:image/png;base64,{data}'>", "text/plain": "<IPython.HTML object>"},
        {"text/markdown": f"see ![x](data:image/png;base64,{data})"},
    ):
        result = seen(shown(bundle))
        assert [size_of(image.data_b64) for image in result.images] == [(100, 100)]
        assert "see" in result.text
        assert "[image 1: image/png" in result.text
        assert data[200:260] not in result.text
        assert data[200:260] not in plain_text([shown(bundle)])
    one_line = data.replace("\n", "")
    printed = seen(stream(f"before data:image/png;base64,{one_line} after"))
    assert re.fullmatch(r"before \[image/png, \d+ kB\] after", printed.text.strip())


@pytest.mark.parametrize("value", ["no base64!", "aGVsbG8=", 7, {"a": 1}, "iVBORw0KGgo="])
def test_a_broken_image_is_said_to_be_broken(value: Any) -> None:
    result = seen(shown({"image/png": value, "text/plain": "a figure"}))
    assert result.images == []
    assert result.text.startswith("a figure\n[image/png")


@pytest.mark.parametrize("value", [None, [], ""])
def test_an_image_of_nothing_is_none(value: Any) -> None:
    result = seen(shown({"image/png": value, "text/plain": "a figure"}))
    assert (result.text, result.images) == ("a figure", [])


# ------------------------------------------------------------------ tables and lines


def frame(rows: int, columns: int, **options: Any) -> dict[str, Any]:
    values = pandas.DataFrame({f"column {c}": [f"r{r}c{c}" for r in range(rows)] for c in range(columns)})
    with pandas.option_context("display.max_rows", 1000, "display.max_columns", 1000, "display.width", 80):
        return shown({"text/plain": repr(values), "text/html": values.to_html(**options)})


def test_a_frame_that_fits_is_shown_as_it_is() -> None:
    output = frame(5, 3)
    assert seen(output).text == output["data"]["text/plain"]


@pytest.mark.parametrize(("rows", "columns"), [(300, 4), (300, 40), (40, 300), (6, 300)])
def test_a_frame_that_does_not_fit_keeps_whole_rows_of_its_ends_and_its_shape(rows: int, columns: int) -> None:
    text = seen(frame(rows, columns), chars=1_500).text
    assert len(text) <= 1_500
    lines = text.splitlines()
    assert lines[0].split()[:2] == ["column", "0"]
    assert lines[1].startswith("0 ")
    assert "r0c0" in lines[1]
    assert lines[-2].startswith(str(rows - 1))
    assert f"r{rows - 1}c{columns - 1}" in lines[-2]
    assert f"[{rows} rows × {columns} columns; {HANDLE}" in lines[-1]
    assert all(
        re.fullmatch(r"r\d+c\d+|\d+|…", word) for line in lines[1:-1] if "rows" not in line for word in line.split()
    )


def test_a_frame_keeps_the_shape_it_says_itself() -> None:
    text = seen(frame(300, 4, max_rows=60, show_dimensions=True), chars=900).text
    assert "[300 rows × 4 columns; " in text


def test_a_page_ends_with_a_line() -> None:
    text = "".join(f"line {at} of many\n" for at in range(1_000))
    first, _, following = page([stream(text)], 0, max_chars=1_000, max_images=0, max_image_bytes=0)
    assert first.endswith(" of many\n")
    assert following == len(first)


# ------------------------------------------------------------------ any outputs at all

LEAF = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=40)
JSON = st.recursive(LEAF, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3))
MIMES = st.sampled_from(
    ["text/plain", "text/html", "text/markdown", "image/png", "image/jpeg", "application/json", "x/y"]
)
NOISE = st.text(st.sampled_from("ab1 \n\r\b\x1b[]m0K;\x07\x00é😀\ud800"), max_size=400)
OUTPUT = st.one_of(
    JSON,
    st.builds(stream, NOISE | JSON),
    st.builds(stream, NOISE.map(lambda text: text * 200)),
    st.dictionaries(MIMES, NOISE | JSON, max_size=4).map(shown),
    st.fixed_dictionaries(
        {"output_type": st.just("error")},
        optional={"ename": NOISE | JSON, "evalue": NOISE | JSON, "traceback": st.lists(NOISE, max_size=4) | JSON},
    ),
    st.fixed_dictionaries({"output_type": st.sampled_from(["display_data", "execute_result"]), "data": JSON}),
    st.integers(0, 40).map(traceback_of),
)


@settings(max_examples=400)
@given(st.lists(OUTPUT, max_size=8), st.integers(0, 3000), st.integers(0, 3))
def test_a_view_never_exceeds_its_budget_and_never_raises(outputs: list[Any], chars: int, images: int) -> None:
    result = view(outputs, max_chars=chars, max_images=images, max_image_bytes=1000, more=more)
    assert len(result.text) <= chars
    assert len(result.images) <= images
    assert "\x1b" not in result.text
    result.text.encode()


@settings(max_examples=200)
@given(st.lists(OUTPUT, max_size=6), st.integers(1, 200))
def test_pages_put_together_are_the_whole_text(outputs: list[Any], limit: int) -> None:
    pages, cursor = [], 0
    while cursor is not None:
        page, cursor = slice_text(outputs, cursor, limit)
        assert len(page) <= limit
        pages.append(page)
    assert "".join(pages) == plain_text(outputs)


@settings(max_examples=200)
@given(st.lists(NOISE, min_size=1, max_size=5), st.data())
def test_a_cursor_stays_true_while_the_output_grows(parts: list[str], data: Any) -> None:
    whole = [stream(text, f"s{number}") for number, text in enumerate(parts)]
    cut = data.draw(st.integers(0, len(parts[-1])))
    earlier = [*whole[:-1], stream(parts[-1][:cut], whole[-1]["name"])]
    assert plain_text(whole).startswith(plain_text(earlier))


def test_the_error_name_survives_any_budget_that_can_hold_it() -> None:
    for chars in range(60, 3000, 37):
        assert "ValueError: no such thing" in seen(stream(words(300)), traceback_of(30), chars=chars).text
