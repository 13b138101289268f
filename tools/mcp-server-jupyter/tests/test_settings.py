"""Every setting is read once, from one place, with one precedence."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from mcp_server_jupyter.addresses import Address
from mcp_server_jupyter.errors import InvalidRequest
from mcp_server_jupyter.settings import Settings
from mcp_server_jupyter.values import PREFIX


def load(options: dict[str, Any] | None = None, **environ: str) -> Settings:
    return Settings.load(options, environ)


def test_an_option_wins_over_the_environment_and_the_environment_over_the_default(tmp_path: Path) -> None:
    assert load().port not in (5000, 6000)
    assert load(MCP_JUPYTER_PORT="5000").port == 5000
    assert load({"port": "6000"}, MCP_JUPYTER_PORT="5000").port == 6000
    assert load({"port": None}, MCP_JUPYTER_PORT="5000").port == 5000


def test_our_own_variable_wins_over_the_guides_name() -> None:
    assert load(ROOM_ID="a.ipynb").notebook == "a.ipynb"
    assert load(ROOM_ID="a.ipynb", MCP_JUPYTER_NOTEBOOK="b.ipynb").notebook == "b.ipynb"


@pytest.mark.parametrize(
    ("name", "value", "field", "wanted"),
    [
        ("ROOM_ID", "analysis.ipynb", "notebook", "analysis.ipynb"),
        ("JUPYTER_TOKEN", "your-secure-token", "token", "your-secure-token"),
        ("TRANSPORT", "streamable-http", "transport", "streamable-http"),
        ("PORT", "5050", "port", 5050),
    ],
)
def test_the_guides_names_are_settings(name: str, value: str, field: str, wanted: object) -> None:
    assert getattr(load(**{name: value}), field) == wanted


def test_an_empty_variable_is_no_setting() -> None:
    assert load(ROOM_ID="", MCP_JUPYTER_PORT="") == load()


@pytest.mark.parametrize("text", ["1", "true", "Yes", "on"])
def test_words_for_yes(text: str) -> None:
    assert load(MCP_JUPYTER_NO_AUTH=text).no_auth is True


@pytest.mark.parametrize("text", ["0", "False", "no", "OFF"])
def test_words_for_no(text: str) -> None:
    assert load(MCP_JUPYTER_FAST_KERNELS=text).fast_kernels is False


def test_lists_are_separated_by_commas() -> None:
    assert load(MCP_JUPYTER_ALLOWED_HOSTS="a, b:1 ,").allowed_hosts == ("a", "b:1")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "http"),
        ("port", "70000"),
        ("port", "-1"),
        ("no_auth", "maybe"),
        ("log_level", "loud"),
        ("transport", "sse"),
        ("wait_seconds", "soon"),
        ("max_chars", "-5"),
        ("grace_seconds", "nan"),
        ("orphan_hours", "inf"),
    ],
)
def test_a_wrong_value_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        load({name: value})
    assert name in str(caught.value)


def test_a_root_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="not a folder"):
        load({"root": tmp_path / "nowhere"})


def test_the_root_is_absolute_and_without_links(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert load({"root": tmp_path / "link"}).root == (tmp_path / "real").resolve()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load().port = 1  # type: ignore[misc]


def test_every_setting_says_what_it_is_and_where_it_belongs() -> None:
    for field in dataclasses.fields(Settings):
        assert field.metadata["help"].endswith("."), field.name
        assert field.metadata["group"], field.name


def test_no_two_settings_share_a_variable() -> None:
    names = [n for f in dataclasses.fields(Settings) for n in (PREFIX + f.name.upper(), *f.metadata["aliases"])]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", ["ROOM_URL", "RUNTIME_URL", f"{PREFIX}JUPYTER_URL"])
def test_one_address_of_a_jupyter_stands_for_notebooks_and_kernels(name: str) -> None:
    settings = Settings.load({}, {name: "http://one:8888", "JUPYTER_TOKEN": "theirs"})

    assert settings.room == settings.runtime == Address("http://one:8888", "theirs")
    assert (settings.kernels, settings.token) == ("jupyter", None)


def test_notebooks_and_kernels_may_be_at_two_jupyters_each_with_its_own_token() -> None:
    given = {
        "ROOM_URL": "http://one:8888",
        "ROOM_TOKEN": "first",
        "RUNTIME_URL": "http://two:8888",
        "RUNTIME_TOKEN": "second",
    }
    settings = Settings.load({}, given)

    assert (settings.room, settings.runtime) == (
        Address("http://one:8888", "first"),
        Address("http://two:8888", "second"),
    )
    assert "first" not in repr(settings.room)


def test_a_token_is_for_no_other_address_than_its_own() -> None:
    given = {"ROOM_URL": "http://one:8888", "ROOM_TOKEN": "first", "RUNTIME_URL": "http://two:8888"}
    alone = {"RUNTIME_URL": "http://two:8888/", "RUNTIME_TOKEN": "second"}

    assert Settings.load({}, given).runtime == Address("http://two:8888")
    assert Settings.load({}, alone).room == Address("http://two:8888/", "second")


def test_the_address_of_a_jupyter_says_where_code_runs_and_whose_the_token_is() -> None:
    settings = Settings.load({"jupyter_url": "http://localhost:8888/lab"}, {"JUPYTER_TOKEN": "theirs"})

    assert (settings.kernels, settings.jupyter_token, settings.token) == ("jupyter", "theirs", None)


def test_tokens_of_both_servers_may_be_given() -> None:
    given = {"JUPYTER_TOKEN": "theirs", f"{PREFIX}TOKEN": "ours", f"{PREFIX}JUPYTER_URL": "https://hub/user/ada/"}
    settings = Settings.load({}, given)

    assert (settings.jupyter_token, settings.token) == ("theirs", "ours")
    assert Settings.load({}, {"JUPYTER_TOKEN": "ours"}).token == "ours"


@pytest.mark.parametrize(
    "url",
    ["localhost:8888", "ftp://host/", "http://host:8888/?token=secret", "http://ada:secret@host/", "http://host:x/"],
)
def test_an_address_of_a_jupyter_holds_no_token_and_is_never_repeated(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Settings.load({"jupyter_url": url}, {})

    assert "secret" not in str(caught.value)


def test_two_jupyters_do_not_share_a_state(tmp_path: Path) -> None:
    def state(**more: str) -> Path:
        return Settings.load({"root": tmp_path, "state_dir": tmp_path, **more}, {}).root_state

    one, other = "http://one:8888/", "http://other:8888/"
    assert len({state(), state(jupyter_url=one), state(jupyter_url=other)}) == 3
    assert state(jupyter_url=one) == state(jupyter_url=one.rstrip("/"))
    assert state(jupyter_url=one) == state(jupyter_url=one, kernels="local")
    assert state(jupyter_url=one) == state(room_url=one) == state(runtime_url=one)
    assert state(jupyter_url=one) != state(jupyter_url=one, runtime_url=other)
    assert state() == state(jupyter_url=one, contents="files", kernels="local")
