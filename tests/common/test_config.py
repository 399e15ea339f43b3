"""Configuration: located errors, near-miss hints, nothing half-loaded."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import Duration, FieldError, Size, describe, load, load_file, option
from common.errors import ConfigError


class Color(StrEnum):
    RED = "red"
    BLUE = "blue"


def even(text: str) -> int:
    if not text.isdigit() or int(text) % 2:
        raise ValueError(f'expected an even number, got "{text}"')
    return int(text)


@dataclass(frozen=True, slots=True)
class Target:
    address: str
    every: Duration = Duration(15_000)
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Config:
    UNSUPPORTED: ClassVar[dict[str, str]] = {"kubernetes": "a Pi has none"}
    name: str = field(default="pi", metadata=option("What it is called."))
    count: int = 3
    ratio: float = 0.5
    on: bool = False
    limit: Size = Size(2**20)
    home: Path | None = None
    color: Color = Color.RED
    targets: tuple[Target, ...] = ()
    pair: int = field(default=2, metadata=option("Even.", parse=even))
    renamed: str = field(default="", metadata=option("Other key.", key="re-named"))

    def __post_init__(self) -> None:
        if self.count > 10:
            raise FieldError("count", f"expected at most 10, got {self.count}")


def errors(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(Config, text, "c.yml")
    return str(caught.value).splitlines()


@pytest.mark.parametrize("text", ["", "---\n", "# nothing\n", "null\n", "{}"])
def test_an_empty_document_gives_the_defaults(text: str) -> None:
    assert load(Config, text, "c.yml") == Config()


def test_every_kind_of_value_is_read() -> None:
    got = load(
        Config,
        "name: 9100\ncount: 0x5\nratio: 2\non: yes\nlimit: 2KB\nhome: /x\ncolor: blue\npair: '4'\nre-named: z\n"
        "targets:\n- address: a\n  every: 1m\n  labels: {a: b}\n",
        "c.yml",
    )
    assert got == Config(
        "9100", 5, 2.0, True, Size(2048), Path("/x"), Color.BLUE, (Target("a", Duration(60_000), {"a": "b"}),), 4, "z"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("targets:\n- address: a\n  every: fast\n", "c.yml:3:10: targets[0].every: expected a duration like 30s or"),
        ("cuont: 1\n", "c.yml:1:1: cuont: unknown key, did you mean count?"),
        ("zzz: 1\n", "c.yml:1:1: zzz: unknown key; known keys: color, count, home, limit, name, on, pair, ratio, re-"),
        ("count: 1\ncount: 2\n", "c.yml:2:1: count: given twice, first in line 1"),
        ("count: many\n", 'c.yml:1:8: count: expected a whole number, got "many"'),
        ("count: 11\n", "c.yml:1:8: count: expected at most 10, got 11"),
        ("ratio: .inf\n", 'c.yml:1:8: ratio: expected a finite number, got ".inf"'),
        ("on: 1\n", 'c.yml:1:5: on: expected true or false, got "1"'),
        ("color: green\n", 'c.yml:1:8: color: expected one of red, blue, got "green"'),
        ("limit: big\n", 'c.yml:1:8: limit: expected a size like 512MB or 2GB, got "big"'),
        ("targets: 3\n", 'c.yml:1:10: targets: expected a list, got "3"'),
        ("targets:\n- every: 1s\n", "c.yml:2:3: targets[0].address: required, but missing"),
        ("targets:\n- address: {a: b}\n", "c.yml:2:12: targets[0].address: expected text, got a mapping"),
        ("pair: 3\n", 'c.yml:1:7: pair: expected an even number, got "3"'),
        ("kubernetes: {}\n", "c.yml:1:1: kubernetes: not supported: a Pi has none"),
        ("- 1\n", "c.yml:1:1: expected a mapping, got a list"),
        ("a: [1\n", "c.yml:2:1: not YAML: while parsing a flow sequence: expected ',' or ']'"),
        ("a: \x01\n", "c.yml:1:1: not YAML:"),
    ],
)
def test_each_error_names_its_place_and_what_was_expected(text: str, message: str) -> None:
    assert errors(text)[0].startswith(message), errors(text)


def test_all_errors_are_reported_at_once() -> None:
    assert len(errors("count: x\nratio: y\nnope: 1\n")) == 3


def test_merge_keys_fill_in_and_explicit_keys_win() -> None:
    text = "targets:\n- &a {address: a, every: 1s}\n- <<: *a\n  address: b\n"
    assert load(Config, text, "c.yml").targets[1] == Target("b", Duration(1000))


def test_nested_aliases_are_cut_off() -> None:
    text = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9))

    @dataclass(frozen=True)
    class Bomb:
        a8: tuple[
            tuple[tuple[tuple[tuple[tuple[tuple[tuple[tuple[str, ...], ...], ...], ...], ...], ...], ...], ...], ...
        ]

    with pytest.raises(ConfigError, match="are aliases nested"):
        load(Bomb, text, "c.yml")


def test_deep_nesting_is_an_error_not_a_crash() -> None:
    assert errors("targets: " + "[" * 2000)


def test_a_missing_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the file: No such file"):
        load_file(Config, tmp_path / "none.yml")


def test_bytes_that_are_not_utf8_are_located(tmp_path: Path) -> None:
    (tmp_path / "c.yml").write_bytes(b"name: a\ncount: \xff\n")
    with pytest.raises(ConfigError, match=r"c.yml:2: not UTF-8: byte 0xff"):
        load_file(Config, tmp_path / "c.yml")


def test_every_key_is_described_with_kind_default_and_doc() -> None:
    keys = {k.path: (k.kind, k.default, k.doc) for k in describe(Config)}
    assert keys["name"] == ("text", "pi", "What it is called.")
    assert keys["re-named"] == ("text", "", "Other key.")
    assert keys["color"] == ("one of red, blue", "red", "")
    assert keys["targets[]"] == ("list", "", "")
    assert keys["targets[].address"] == ("text", "required", "")
    assert keys["targets[].every"] == ("duration", "15s", "")
    assert keys["targets[].labels"] == ("mapping", "", "")


@given(st.text(alphabet=st.sampled_from("ab:-[]{}&*<>!|#'\" \n1cout"), max_size=60))
def test_no_text_raises_anything_but_a_config_error(text: str) -> None:
    try:
        load(Config, text, "c.yml")
    except ConfigError as err:
        assert str(err).startswith("c.yml:")
