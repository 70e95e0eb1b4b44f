"""Writes frames as they lie in bronze, from their description alone (proto/src/frame.rs), not with Mallard's code."""

import struct

import google_crc32c
import pyarrow as pa

MAGIC = bytes.fromhex("f74d9be3")
VERSION = 1
# About 80 KiB of these rows: what the server makes of an ingest.
ROWS_A_FRAME = 1_800
FRAME_BYTES_MAX = 1_000 * 1_024
RECEIVED_AT_US = 1_769_900_000_000_000
MASK_64 = (1 << 64) - 1
# The words of proto/src/fingerprint.rs, for the types that are used here.
WORDS = {
    pa.int32(): "int32",
    pa.int64(): "int64",
    pa.float64(): "float64",
    pa.string(): "utf8",
    pa.decimal128(12, 2): "decimal128(12,2)",
    pa.timestamp("us", tz="UTC"): "timestamp(us,3:UTC)",
}


def fingerprint(schema):
    """The number of a schema: 64-bit FNV-1a over its names, types and nullability."""
    hashed = 0xCBF29CE484222325
    for field in schema:
        name = field.name.encode()
        text = b"%d:%s %s%s;" % (len(name), name, WORDS[field.type].encode(), b"?" if field.nullable else b"!")
        for byte in text:
            hashed = (hashed ^ byte) * 0x100000001B3 & MASK_64
    return hashed


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


def header(table, ingest_id, frame, schema_fingerprint, rows, is_last):
    """A FrameHeader (proto/proto/mallard/v1/frame.proto); zeros and false are left out, as protobuf has it."""

    def number(field, value):
        return varint(field << 3) + varint(value) if value else b""

    def text(field, value):
        return varint(field << 3 | 2) + varint(len(value.encode())) + value.encode()

    fixed = varint(4 << 3 | 1) + struct.pack("<Q", schema_fingerprint)
    names = text(1, table) + text(2, ingest_id) + number(3, frame)
    return names + fixed + number(5, RECEIVED_AT_US) + number(6, rows) + number(8, int(is_last))


def encode(head, payload):
    prelude = struct.pack("<4sHHII", MAGIC, VERSION, 0, len(head), len(payload))
    body = head + payload
    prelude += struct.pack("<I", google_crc32c.value(prelude))
    whole = prelude + body + struct.pack("<I", google_crc32c.value(body))
    assert len(whole) <= FRAME_BYTES_MAX, f"a frame of {len(whole)} bytes does not fit a record"
    return whole


def frames(table, ingest_id, rows):
    """The frames of one ingest of an Arrow table, one after the other."""
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    # Of fields that DuckDB or Parquet made, nothing but the type and the name.
    schema = pa.schema([(field.name, field.type) for field in rows.schema])
    rows = rows.cast(schema).combine_chunks()
    begins = range(0, rows.num_rows, ROWS_A_FRAME)
    for number, begin in enumerate(begins):
        part = rows.slice(begin, ROWS_A_FRAME)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, schema, options=options) as writer:
            writer.write_table(part)
        is_last = number == len(begins) - 1
        head = header(table, ingest_id, number, fingerprint(schema), part.num_rows, is_last)
        yield encode(head, sink.getvalue().to_pybytes())
