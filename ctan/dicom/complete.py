"""Whether a DICOM file is whole. pydicom reads a file that is cut off without a word, with fewer contours or pixels."""

from __future__ import annotations

import struct

from ctan.errors import DataError

_PREAMBLE = 128
_UNDEFINED = 0xFFFFFFFF
_ITEM, _END_OF_ITEM, _END_OF_SEQUENCE = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_IMPLICIT, _BIG_ENDIAN, _DEFLATED = b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.2", b"1.2.840.10008.1.2.1.99"


def check_complete(content: bytes) -> None:
    """Walk the elements of a file to its end.

    Raises:
        DataError: when an element or an open sequence reaches beyond it.
    """
    start = _PREAMBLE + 4 if content[_PREAMBLE : _PREAMBLE + 4] == b"DICM" else 0
    walk = _Walk(content, "<", implicit=False)
    position, syntax = walk.meta(start)
    if syntax == _DEFLATED:
        return  # zlib notices
    implicit = syntax == _IMPLICIT or (not syntax and content[position + 4 : position + 6] not in _SHORT_OR_LONG)
    _Walk(content, ">" if syntax == _BIG_ENDIAN else "<", implicit).elements(position, inside_item=False)


class _Walk:
    def __init__(self, content: bytes, order: str, implicit: bool) -> None:
        self._content, self._order, self._implicit = content, order, implicit

    def meta(self, position: int) -> tuple[int, bytes]:
        """Return where the file meta information (group 0002) ends, and the transfer syntax."""
        syntax = b""
        while self._content[position : position + 2] == b"\x02\x00":
            tag, _, length, start = self._head(position)
            self._check(start + length)
            if tag == 0x00020010:
                syntax = self._content[start : start + length].strip(b" \0")
            position = start + length
        return position, syntax

    def elements(self, position: int, inside_item: bool) -> int:
        """Return where the elements from `position` end: at the end of the file or of the item."""
        while inside_item or position < len(self._content):
            tag, vr, length, start = self._head(position)
            if tag == _END_OF_ITEM:
                return start
            if length != _UNDEFINED:
                position = start + length
                self._check(position)
            elif vr == b"UN":  # its items are in the implicit form, whatever the file is
                position = _Walk(self._content, "<", implicit=True).items(start)
            else:
                position = self.items(start)
        return position

    def items(self, position: int) -> int:
        """Return where the sequence (or the fragments of pixel data) of undefined length at `position` ends."""
        while True:
            tag, _, length, start = self._head(position)
            if tag == _END_OF_SEQUENCE:
                return start
            if tag != _ITEM:
                raise DataError("damaged, expected an item of a sequence; export it again")
            position = self.elements(start, inside_item=True) if length == _UNDEFINED else start + length
            self._check(position)

    def _head(self, position: int) -> tuple[int, bytes, int, int]:
        """Return tag, VR, length and the start of the value of the element at `position`."""
        self._check(position + 8)
        group, element = struct.unpack_from(f"{self._order}HH", self._content, position)
        tag, vr = group << 16 | element, self._content[position + 4 : position + 6]
        if self._implicit or group == 0xFFFE:
            return tag, b"", struct.unpack_from(f"{self._order}L", self._content, position + 4)[0], position + 8
        if vr in _LONG_VRS:
            self._check(position + 12)
            return tag, vr, struct.unpack_from(f"{self._order}L", self._content, position + 8)[0], position + 12
        return tag, vr, struct.unpack_from(f"{self._order}H", self._content, position + 6)[0], position + 8

    def _check(self, end: int) -> None:
        if end > len(self._content):
            raise DataError(
                f"truncated, {len(self._content)} bytes where at least {end} were expected; export it again"
            )


_SHORT_OR_LONG = _LONG_VRS | frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
