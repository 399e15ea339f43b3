"""Schemas: round trips, sharing by hash, refusal of anything damaged."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-any-generics, no-warn-return-any

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import FormatError, FrameError
from common.frames.schema import (
    Schema,
    SubSchema,
    decode_schema,
    decode_subschema,
    encode_schema,
    join_schema,
    schema_hash,
    schema_length,
    split_schema,
)
from common.labels import Labels
from common.sample import MetricMeta, MetricType

GOLDEN = Path(__file__).parents[2] / "fixtures" / "frames" / "subschema.hex"

texts = st.text(max_size=8)
label_sets = st.dictionaries(texts.filter(bool), texts.filter(bool), max_size=4).map(Labels.of)
metas = st.builds(MetricMeta, texts, st.sampled_from(list(MetricType)), texts, texts)


@st.composite
def schemas(draw):
    rows = draw(st.lists(label_sets, unique=True, max_size=12))
    cut = draw(st.integers(0, len(rows)))
    meta = tuple(draw(st.lists(metas, max_size=4)))
    return Schema((SubSchema("a", tuple(rows[:cut]), meta), SubSchema("b", tuple(rows[cut:]))))


CPU = SubSchema(
    "cpu",
    (Labels.of(__name__="node_cpu_seconds_total", cpu="0", mode="idle"), Labels.of(__name__="node_load1")),
    (MetricMeta("node_cpu_seconds_total", MetricType.COUNTER, "Seconds the CPUs spent in each mode.", "seconds"),),
)
NET = SubSchema("netdev", (Labels.of(__name__="node_network_up", device="eth0"),))


@given(schemas())
def test_a_schema_comes_back_whole(schema):
    data = encode_schema(schema)
    again = decode_schema(data)
    assert again == schema
    assert again.hash == schema.hash == schema_hash(data)
    assert schema_length(data) == len(data)
    assert list(again.labels()) == [row for part in schema.parts for row in part.rows]
    assert again.rows == len(list(schema.labels()))


def test_metadata_travels_with_the_rows():
    assert list(decode_schema(encode_schema(Schema((CPU, NET)))).meta()) == list(CPU.meta)


def test_equal_sub_schemas_are_shared_by_hash():
    data = encode_schema(Schema((CPU, NET)), known={CPU.hash})
    assert len(data) < len(encode_schema(Schema((CPU, NET))))
    assert split_schema(data) == [(CPU.hash, None), (NET.hash, NET.encoded)]
    again = decode_schema(data, {CPU.hash: CPU}.get)
    assert again.parts[0] is CPU
    assert again.hash == Schema((CPU, NET)).hash
    with pytest.raises(FrameError, match=CPU.hash.hex()):
        decode_schema(data)


def test_a_schema_can_be_put_together_from_its_parts():
    whole = encode_schema(Schema((CPU, NET)))
    assert join_schema(split_schema(whole)) == whole


def test_the_hash_depends_on_order_and_content():
    assert Schema((CPU, NET)).hash != Schema((NET, CPU)).hash
    assert SubSchema("cpu", CPU.rows).hash != CPU.hash


def test_a_label_set_given_twice_is_refused():
    with pytest.raises(FormatError, match="twice in 'x'"):
        SubSchema("x", (NET.rows[0], NET.rows[0]))
    with pytest.raises(FormatError, match="both 'netdev' and 'other'"):
        Schema((NET, SubSchema("other", NET.rows)))


def test_two_parts_of_one_name_may_not_share_a_label_set():
    with pytest.raises(FormatError, match="both"):
        Schema((NET, NET))


def test_a_schema_cut_at_any_byte_is_refused():
    data = encode_schema(Schema((CPU, NET)))
    for size in range(len(data)):
        with pytest.raises(FrameError):
            decode_schema(data[:size])


def test_any_flipped_bit_of_a_schema_is_detected():
    data = encode_schema(Schema((CPU, NET)))
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FrameError):
            decode_schema(bytes(damaged))


@given(st.lists(st.tuples(st.integers(0, len(CPU.encoded) - 1), st.integers(0, 255)), min_size=1, max_size=3))
def test_a_damaged_sub_schema_is_refused_or_still_one(changes):
    damaged = bytearray(CPU.encoded)
    for at, value in changes:
        damaged[at] = value
    try:
        sub = decode_subschema(bytes(damaged))
    except FrameError:
        return
    assert sub.encoded == damaged


@given(st.binary(max_size=200))
def test_noise_is_no_schema(noise):
    with pytest.raises(FrameError):
        decode_schema(noise)


def test_the_encoded_sub_schema_is_that_of_the_golden_file():
    assert CPU.encoded.hex(" ", 1) == GOLDEN.read_text().replace("\n", " ").strip()
