"""RE2's syntax without google-re2: what 32-bit machines match with, held against google-re2 where that is installed."""

import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import FormatError
from common.labels import MAX_REGEX_LENGTH_WITHOUT_RE2, Labels, Matcher, MatchType, compile_regex
from common.regex import Pattern, compile_pattern
from common.regex.backtracking import is_harmless, text_of
from common.regex.machine import MAX_INSTRUCTIONS, Machine
from common.regex.syntax import MAX_DEPTH, parse
from common.relabel import RelabelConfig, relabel
from common.rules.template import FUNCTIONS


def both(pattern: str, dot_newline: bool = True) -> list[Pattern]:
    """The expression in each of the two engines, whichever would be chosen."""
    tree = parse(pattern, dot_newline=dot_newline)
    return [re.compile(text_of(tree)), Machine(tree)]


@pytest.mark.parametrize(
    ("pattern", "hit", "miss"),
    [
        (r"\d+", "42", "٤٢"),
        (r"\w+", "a_1", "é"),
        (r"\s", " ", "\v"),
        (r"[^\S]", "\t", "\v"),
        (r"é\b!", None, "é!"),
        (r"a\B", None, "a"),
        (r"\B", "", "a"),
        (r"x\z", "x", "x\n"),
        (r"x$", "x", "x\n"),
        (r"x$(?m)\ny$", None, "x\ny"),
        (r"(?m)x$\n^y", "x\ny", "xy"),
        (r"(?-s).", "a", "\n"),
        (r"[^a]", "\n", "a"),
        (r"a{,3}", "a{,3}", "aa"),
        (r"a{2}", "aa", "a"),
        (r"a{", "a{", "a"),
        (r"^*a", "a", "b"),
        (r"\Qa+b\E+", "a+bb", "aab"),
        (r"\Q[", "[", ""),
        (r"\x{1F600}\x41\101", "😀AA", "A"),
        (r"[[:alpha:]]+", "aZ", "a1"),
        (r"[[:^digit:]x]", "x", "1"),
        (r"[]a]", "]", "b"),
        (r"[a\]\-]", "-", "b"),
        (r"[a-c-e]", "-", "d"),
        (r"[[a||b]", "|", "c"),
        (r"a(?i)b|C", "c", "Ab"),
        (r"(?:(?i)a)b", "Ab", "AB"),
        (r"(?i)K", "\u212a", "l"),
        (r"(?P<1st>a)(?<b>c)(?<b>d)", "acd", "a"),
    ],
)
def test_an_expression_means_what_re2_says(pattern: str, hit: str | None, miss: str) -> None:
    for compiled in both(pattern):
        assert hit is None or compiled.fullmatch(hit)
        assert not compiled.fullmatch(miss)


def test_the_dot_keeps_to_its_line_where_the_caller_says_so() -> None:
    for pattern, hit in (("a.", False), ("(?s)a.", True)):
        for compiled in both(pattern, dot_newline=False):
            assert compiled.fullmatch("ab")
            assert bool(compiled.fullmatch("a\n")) is hit


@pytest.mark.parametrize(
    ("pattern", "text", "groups"),
    [
        ("(a+)(a*)", "aaa", ("aaa", "")),
        ("(a+?)(a*)", "aaa", ("a", "aa")),
        ("(?U)(a+)(a*?)", "aaa", ("a", "aa")),
        ("(a|ab)(c|bcd)(d*)", "abcd", ("a", "bcd", "")),
        ("(?:(a)|(b))*", "ab", ("a", "b")),
        ("((?P<x>b)|c)*?c", "bc", ("b", "b")),
        ("(a{0,2})(a{2,3}?)(a*)", "aaaaa", ("aa", "aa", "a")),
    ],
)
def test_groups_take_what_the_first_way_through_gives_them(
    pattern: str, text: str, groups: tuple[str | None, ...]
) -> None:
    for compiled in both(pattern):
        match = compiled.fullmatch(text)
        assert match is not None
        assert match.groups() == groups
        assert match.group(0) == text
        assert all(match.group(name) == groups[number - 1] for name, number in compiled.groupindex.items())
        with pytest.raises(IndexError):
            match.group(len(groups) + 1)
        with pytest.raises(IndexError):
            match.group("nobody")


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("a*", "baac"),
        ("", "ab"),
        ("a|ab|b", "xabab"),
        ("(?m)^|b", "a\nb"),
        (r"\b", "ab cd"),
        ("a+?", "aa"),
        ("|a", "aa"),
    ],
)
def test_both_engines_find_the_same_places(pattern: str, text: str) -> None:
    ours, machine = ([match.span() for match in compiled.finditer(text)] for compiled in both(pattern))
    assert machine == ours


@pytest.mark.parametrize(
    "pattern", ["a.*b.+", "web.*|db.*|.*x", "(a|b|c)(d|e)?x{2,50}", "host(1|2)?[.]example", "((a))+b", "(?:ab){2,3}"]
)
def test_what_takes_few_steps_is_left_to_the_faster_engine(pattern: str) -> None:
    assert isinstance(compile_pattern(pattern, dot_newline=True), re.Pattern)


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+", "(a|ab)*", "(a?){30}a{30}", "a*a*a*b", "(a|a)" * 12, "a?" * 12, "((a*)b)*", "(^a?)+", "a{1,40}b{1,40}"],
)
def test_what_could_take_years_is_done_in_linear_time(pattern: str) -> None:
    assert isinstance(compile_pattern(pattern, dot_newline=True), Machine)


def test_a_catastrophic_expression_ends() -> None:
    compiled = compile_pattern("(?:(a+)+|(a|aa)*|(a?){40}a{40})c", dot_newline=True)
    assert compiled.fullmatch("a" * 2_000 + "b") is None
    assert list(compiled.finditer("a" * 200 + "b")) == []


def test_a_repetition_that_would_fill_the_memory_is_refused() -> None:
    with pytest.raises(FormatError, match=f"more than {MAX_INSTRUCTIONS} steps"):
        compile_pattern("(a?b?c?d?e?f?g?h?){1000}", dot_newline=True)


def test_the_deepest_nesting_is_taken_by_both_engines() -> None:
    deep = "(" * MAX_DEPTH + "a" + ")*" * MAX_DEPTH
    assert not is_harmless(parse(deep, dot_newline=True))
    for compiled in both(deep):
        assert compiled.fullmatch("aa")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(a", "missing closing ): `(a`"),
        ("a)b", "unexpected ): `a)b`"),
        ("[a", "missing closing ]: `[a`"),
        ("[]", "missing closing ]: `[]`"),
        ("[a-", "missing closing ]: `[a-`"),
        ("a\\", "trailing backslash at end of expression: ``"),
        ("*a", "missing argument to repetition operator: `*`"),
        ("(|+?)", "missing argument to repetition operator: `+?`"),
        ("a**", "invalid nested repetition operator: `**`"),
        ("a++", "invalid nested repetition operator: `++`"),
        ("a{2}{3}", "invalid nested repetition operator: `{2}{3}`"),
        ("a{1001}", "invalid repeat count: `{1001}`"),
        ("a{2,1}", "invalid repeat count: `{2,1}`"),
        ("((a{100})|b){11}", "invalid repeat count: `{11}`"),
        ("[z-a]", "invalid character class range: `z-a`"),
        ("[[:letter:]]", "invalid character class range: `[:letter:]`"),
        ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
        ("(?<!a)", "invalid or unsupported Perl syntax: `(?<`"),
        ("(?>a)", "invalid or unsupported Perl syntax: `(?>`"),
        ("(?P=a)", "invalid or unsupported Perl syntax: `(?P`"),
        ("(?)", "invalid or unsupported Perl syntax: `(?)`"),
        ("(?x)", "invalid or unsupported Perl syntax: `(?x`"),
        ("(?P<a-b>c)", "invalid named capture: `(?P<a-b>`"),
        ("(?P<a", "invalid named capture: `(?P<a`"),
        (r"(a)\1", r"invalid escape sequence: `\1`"),
        (r"a\Z", r"invalid escape sequence: `\Z`"),
        (r"[\b]", r"invalid escape sequence: `\b`"),
        (r"\x{110000}", r"invalid escape sequence: `\x`"),
        (r"\pL", r"Unicode classes need google-re2, which has no wheel for this machine: `\p`"),
        ("(" * (MAX_DEPTH + 1) + ")" * (MAX_DEPTH + 1), f"expression nests too deeply: `limit {MAX_DEPTH}`"),
    ],
)
def test_what_re2_refuses_is_refused_in_the_words_of_go(pattern: str, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse(pattern, dot_newline=True)
    assert str(caught.value) == f"error parsing regexp: {message}"


SYNTAX = r"""
a b K k . * + ? {2} {1,2} {0,} {,2} ( (?: (?i) (?i: (?s) (?m) (?-s) (?U) (?P<n> (?<m> ) ) | [ [^ ] - \d \W \s \b \B
^ $ \A \z \Q \E \x41 \101 \. [[:alpha:]] [^[:space:]b] [a-c] [\]\-x] \n { } {1001} 5 _ é \_ \é \1
"""
PIECES = st.sampled_from(SYNTAX.split())
TEXTS = ["", "a", "ab", "AB", "C", "\n", "a\n", "\nb", "a\nb", "k", "K", "aaa", "abab", "]", "[", "-", "a{,2}", "{"]
TEXTS += ["}", "c", "5", "a5", "5 a", "_", ".", "x", "aab", "b5k", "a b", " ", "é", "1"]


@settings(deadline=None)
@given(pieces=st.lists(PIECES, min_size=1, max_size=9), dot_newline=st.booleans())
def test_google_re2_takes_the_same_expressions_and_finds_the_same(pieces: list[str], dot_newline: bool) -> None:
    re2 = pytest.importorskip("re2", reason="google-re2 has no wheel for this machine")
    options = re2.Options()
    options.log_errors = False
    options.dot_nl = dot_newline
    pattern = "".join(pieces)
    try:
        theirs = re2.compile(pattern, options)
    except re2.error:
        theirs = None
    try:
        engines = both(pattern, dot_newline)
    except FormatError:
        assert theirs is None
        return
    assert theirs is not None
    for text in TEXTS:
        match = theirs.fullmatch(text)
        for ours in engines:
            assert (ours.fullmatch(text) is None) is (match is None), (type(ours), text)


@pytest.fixture
def without_re2(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation that has no google-re2, whatever this machine has."""
    monkeypatch.setitem(sys.modules, "re2", None)


@pytest.mark.usefixtures("without_re2")
class TestWithoutRe2:
    def test_matchers_are_anchored_and_take_re2_syntax(self) -> None:
        matcher = Matcher(MatchType.RE, "l", r"a.*\d")
        assert [matcher.matches(text) for text in ("a\n1", "xa1", "a٤", "a1\n")] == [True, False, False, False]

    def test_a_long_expression_is_refused_and_says_what_to_install(self) -> None:
        compile_regex("a" * MAX_REGEX_LENGTH_WITHOUT_RE2)
        with pytest.raises(FormatError, match="install google-re2"):
            compile_regex("a" * (MAX_REGEX_LENGTH_WITHOUT_RE2 + 1))

    def test_a_list_of_literals_of_any_length_still_matches(self) -> None:
        names = [f"host{number}" for number in range(1000)]
        assert Matcher(MatchType.RE, "l", "|".join(names)).matches("host999")

    def test_relabeling_expands_groups_by_number_and_name(self) -> None:
        config = RelabelConfig(
            source_labels=("a",), regex="(?P<host>[^:]+):(\\d+)", target_label="b", replacement="$2-${host}"
        )
        assert relabel(Labels.of(a="pi:91"), [config]) == Labels.of(a="pi:91", b="91-pi")

    def test_templates_replace_by_regular_expression(self) -> None:
        _, _, replace_all = FUNCTIONS["reReplaceAll"]
        assert replace_all(["(.*):(\\d+)", "${2}/$1", "pi:91"]) == "91/pi"
        assert replace_all(["(a+)+$", "", "a" * 1_000 + "b"]) == "a" * 1_000 + "b"


def test_both_engines_say_the_same_of_a_bad_expression(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("re2", reason="google-re2 has no wheel for this machine")

    def messages() -> list[str]:
        out = []
        for pattern in ("(a", "[a", "a**", "*", "a{1001}", "(?=a)", r"a\Z", "[z-a]", "a)"):
            with pytest.raises(FormatError) as caught:
                compile_regex(pattern)
            out.append(str(caught.value))
        return out

    theirs = messages()
    monkeypatch.setitem(sys.modules, "re2", None)
    assert messages() == theirs
