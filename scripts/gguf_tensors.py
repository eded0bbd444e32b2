"""A GGUF file's tensors, read by hand: an eye of its own for what our programs and llama.cpp write."""

import struct

# Bytes of a metadata value, by the number of its type.
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9


def read(path):
    """The file's bytes, and of each tensor: name, dimensions, number of the type, where it begins."""
    data = path.read_bytes()
    at = 8

    def take(form):
        nonlocal at
        (value,) = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize(form)
        return value

    def string():
        nonlocal at
        n = take("Q")
        at += n
        return data[at - n : at].decode()

    def skip(kind):
        nonlocal at
        if kind == STRING:
            string()
        elif kind == ARRAY:
            inner, count = take("I"), take("Q")
            for _ in range(count):
                skip(inner)
        else:
            at += SIZES[kind]

    count, entries = take("Q"), take("Q")
    for _ in range(entries):
        string()
        skip(take("I"))
    found = []
    for _ in range(count):
        name, dims = string(), [take("Q") for _ in range(take("I"))]
        found.append((name, dims, take("I"), take("Q")))
    start = (at + 31) // 32 * 32
    return data, [(name, dims, kind, start + offset) for name, dims, kind, offset in found]
