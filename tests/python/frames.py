"""Reads frames as they lie in bronze, from their description alone (proto/src/frame.rs), not with the server's code."""

import struct
from dataclasses import dataclass

import pyarrow as pa

MAGIC = bytes.fromhex("f74d9be3")
PRELUDE = struct.Struct("<4sHHIII")
# Fields of FrameHeader (proto/proto/mallard/v1/frame.proto), by number.
FIELDS = {
    1: "table",
    2: "ingest_id",
    3: "frame",
    4: "schema_fingerprint",
    5: "received_at_us",
    6: "rows",
    7: "next_frame",
    8: "is_last",
}


def _crc_table():
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ 0x82F63B78 * (byte & 1)
        yield byte


CRC_TABLE = tuple(_crc_table())


def crc32c(data):
    crc, table = 0xFFFFFFFF, CRC_TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


@dataclass
class Frame:
    """One frame: what its header says, and its rows."""

    rows: pa.Table
    bytes: int
    table: str = ""
    ingest_id: str = ""
    frame: int = 0
    received_at_us: int = 0
    next_frame: int = 0
    is_last: bool = False


def _varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at


def _header(data):
    """The fields of a protobuf message, by name."""
    at, fields = 0, {}
    while at < len(data):
        tag, at = _varint(data, at)
        name = FIELDS.get(tag >> 3, f"field {tag >> 3}")
        match tag & 7:
            case 0:
                fields[name], at = _varint(data, at)
            case 1:
                fields[name], at = data[at : at + 8], at + 8
            case 2:
                length, at = _varint(data, at)
                fields[name], at = data[at : at + length].decode(), at + length
            case other:
                raise AssertionError(f"wire type {other} in a frame's header")
    return fields


def read_frames(data):
    """The frames that lie end to end in `data`; all of it must be frames, whole and undamaged."""
    frames, at = [], 0
    while at < len(data):
        magic, version, flags, header_bytes, payload_bytes, checksum = PRELUDE.unpack_from(data, at)
        assert (magic, version, flags) == (MAGIC, 1, 0), f"no frame at byte {at}"
        assert crc32c(data[at : at + PRELUDE.size - 4]) == checksum, f"damaged prelude at byte {at}"
        begin = at + PRELUDE.size
        middle, end = begin + header_bytes, begin + header_bytes + payload_bytes
        assert crc32c(data[begin:end]) == int.from_bytes(data[end : end + 4], "little"), f"damaged frame at byte {at}"
        header = _header(data[begin:middle])
        rows = pa.ipc.open_stream(data[middle:end]).read_all()
        assert header.pop("rows", 0) == rows.num_rows, f"the frame at byte {at} has another number of rows than it says"
        header.pop("schema_fingerprint")
        header["is_last"] = bool(header.get("is_last"))
        frames.append(Frame(rows=rows, bytes=end + 4 - at, **header))
        at = end + 4
    return frames
