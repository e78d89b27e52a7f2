"""Mutate: protobuf messages made odd at random: their fields, which leaves a message, or their bytes, which may not.

Everything is drawn from the dice alone, so that a seed gives the same bytes again.
"""

import random
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-(2**31), 2**31 - 1),
}
NEAR = (0, 1, 2, 3, 20, 64, 127, 128, 129, 4096, 2**31, 2**32, 2**53, -1, -2, 2**62)
FLOATS = (0.0, -0.0, 1.0, -1.0, float("nan"), float("inf"), float("-inf"), 3e38, 1e-45)
TEXTS = (
    "",
    "ctr",
    "user",
    "ids",
    "dense",
    "logit",
    "ctr/1",
    "..",
    "../../etc/passwd",
    "/",
    ".",
    "\x00",
    "1",
    "-1",
    "01",
)
TEXTS += (
    "9" * 19,
    "9" * 20,
    "٣",
    "1.0",
    "stable",
    "INT64",
    "FP32",
    "INT32",
    "BYTES",
    "🦆",
    "x" * 70,
    "x" * 20_000,
    "a\nb",
)
TEXTS += ("\x1b[2J", "{}", "%s%n", "item", "city", "tags", "seen", "age", "price", "rank", "classification", "\u202e")
NUMBERS = [struct.pack("<q", each) for each in (-1, 0, 1, -(2**63), 2**63 - 1, 2**62, 2**31, 999, 1000)]
NUMBERS += [struct.pack("<f", each) for each in FLOATS]
NUMBERS += [struct.pack("<I", each) for each in (0, 1, 2, 4, 5, 2**31, 2**32 - 1)] + [b"\x01", b"\x02", b"\xff"]
MOST_BYTES = 1 << 16  # of a request that is made longer


def mutate(dice: random.Random, base: Message, others: Sequence[bytes]) -> bytes:
    """A serialized message like `base`, spoilt; `others` are serialized ones to splice with."""
    message = type(base)()
    message.CopyFrom(base)
    if dice.random() < 0.9:
        for _ in range(dice.choice((1, 1, 1, 2, 4))):
            _change(dice, message)
    data = message.SerializeToString()
    if dice.random() < 0.3:
        data = odd_bytes(dice, data, dice.choice(others))
    return data


def odd_bytes(dice: random.Random, data: bytes, other: bytes) -> bytes:
    """Bytes cut, flipped, overwritten, repeated, or mixed with others."""
    for _ in range(dice.choice((1, 1, 1, 3))):
        start = dice.randrange(len(data) + 1)
        end = min(len(data), start + dice.choice((1, 1, 4, 8, 64, 1024)))
        action = dice.randrange(8)
        if action == 0:
            data = data[:start]
        elif action == 1 and data:
            place = min(start, len(data) - 1)
            data = data[:place] + bytes([data[place] ^ 1 << dice.randrange(8)]) + data[place + 1 :]
        elif action == 2:
            data = data[:start] + dice.randbytes(end - start) + data[end:]
        elif action == 3:
            odd = dice.choice(NUMBERS)
            data = data[:start] + odd + data[start + len(odd) :]
        elif action == 4:
            data = data[:start] + data[start:end] * dice.choice((0, 2, 50)) + data[end:]
        elif action == 5:
            data = data[:start] + other[dice.randrange(len(other) + 1) :]
        elif action == 6:
            data = data + other  # one message merged into another
        else:
            data = data[:start] + _tag(dice) + data[start:]
    return data[:MOST_BYTES]


def _tag(dice: random.Random) -> bytes:
    """The begin of a field: of any number and kind, groups and lengths beyond the end among them; or nested ones."""
    if dice.random() < 0.1:
        return bytes([dice.randrange(1, 16) << 3 | 3]) * dice.choice((2, 99, 101, 5000))
    tag = dice.choice((dice.randrange(1, 16), dice.randrange(1 << 29))) << 3 | dice.randrange(8)
    return _varint(tag) + _varint(dice.choice((0, 1, 127, 2**31, 2**32, 2**63, 2**64 - 1)))


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _messages(message: Message) -> Iterator[Message]:
    """A message and all within it."""
    yield message
    for field, value in message.ListFields():
        if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            if field.message_type.GetOptions().map_entry:
                continue
            for each in value if field.is_repeated else (value,):
                yield from _messages(each)


def _change(dice: random.Random, message: Message) -> None:
    """One field of one message within it: set to something odd, cleared, doubled, dropped or reordered."""
    found = dice.choice(list(_messages(message)))
    fields = found.DESCRIPTOR.fields
    present = [field for field, _ in found.ListFields()]
    if not fields:
        return
    field = dice.choice(present if present and dice.random() < 0.7 else fields)
    if dice.random() < 0.1:
        found.ClearField(field.name)
    elif field.is_repeated:
        _change_many(dice, getattr(found, field.name), field)
    elif field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        getattr(found, field.name).SetInParent()
    else:
        setattr(found, field.name, _value(dice, field, getattr(found, field.name)))


def _change_many(dice: random.Random, values: Any, field: FieldDescriptor) -> None:
    if field.message_type and field.message_type.GetOptions().map_entry:
        name = dice.choice(TEXTS)
        value = values[name]
        if isinstance(value, Message):
            _change(dice, value)
        return
    action, length = dice.randrange(4), len(values)
    if action == 0 and length:
        del values[dice.randrange(length)]
    elif action == 1 and length:
        each = values[dice.randrange(length)]
        values.extend([each] * dice.choice((1, 1, 3, 100)))
    elif action == 2 and length > 1:
        kept = [_copied(each) for each in values]
        dice.shuffle(kept)
        del values[:]
        values.extend(kept)
    elif field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        values.add()
    elif length and dice.random() < 0.7:
        place = dice.randrange(length)
        values[place] = _value(dice, field, values[place])
    else:
        values.extend(_value(dice, field, field.default_value or _zero(field)) for _ in range(dice.choice((1, 1, 8))))


def _copied(value: Any) -> Any:
    if not isinstance(value, Message):
        return value
    copy = type(value)()
    copy.CopyFrom(value)
    return copy


def _zero(field: FieldDescriptor) -> Any:
    kinds = {FieldDescriptor.TYPE_BYTES: b"", FieldDescriptor.TYPE_STRING: ""}
    return kinds.get(field.type, 0)


def _value(dice: random.Random, field: FieldDescriptor, value: Any) -> Any:
    kind = field.cpp_type
    if kind in INTEGERS:
        low, high = INTEGERS[kind]
        if dice.random() < 0.2:
            return min(high, max(low, value + dice.choice((-1, 1))))
        return min(high, max(low, dice.choice((*NEAR, low, high, dice.randint(low, high)))))
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return not value
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return dice.choice(FLOATS)
    if field.type == FieldDescriptor.TYPE_STRING:
        return dice.choice(TEXTS)
    return _odd_numbers(dice, value)


def _odd_numbers(dice: random.Random, data: bytes) -> bytes:
    """Packed numbers, some of them odd, one too many or too few, or not whole."""
    action = dice.randrange(6)
    if action == 0 or not data:
        return dice.choice(NUMBERS) * dice.choice((0, 1, 1, 2, 8, 64, 200))
    if action == 1:
        return data[: dice.randrange(len(data))]
    if action == 2:
        return data + data[: dice.choice((1, 4, 8, len(data)))]
    if action == 3:
        return dice.randbytes(len(data))
    odd = dice.choice(NUMBERS)
    place = dice.randrange(len(data)) // len(odd) * len(odd)
    return (data[:place] + odd + data[place + len(odd) :])[: len(data) if action == 4 else None]
