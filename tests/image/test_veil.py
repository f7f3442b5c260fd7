"""The veil over images on their way."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_cr.image.veil import Veil

VEIL = Veil()


# However busy the machine is.
@settings(deadline=None)
@given(
    data=st.binary(max_size=100), offset=st.integers(0, 1 << 50), cut=st.integers(0, 100)
)
def test_each_byte_has_its_place(data: bytes, offset: int, cut: int) -> None:
    covered = VEIL.over(data, "a", offset)
    assert len(covered) == len(data)
    assert VEIL.over(covered, "a", offset) == data
    parts = VEIL.over(data[:cut], "a", offset) + VEIL.over(data[cut:], "a", offset + cut)
    assert parts[: len(data)] == covered or cut > len(data)


def test_it_hides() -> None:
    """Another key, another file, another place: other bytes."""
    data = bytes(4096)
    covered = [
        VEIL.over(data, "a"),
        VEIL.over(data, "b"),
        VEIL.over(data, "a", 1 << 20),
        Veil().over(data, "a"),
    ]
    assert len({*covered, data}) == 5
    blocks = {part[at : at + 16] for part in covered for at in range(0, 4096, 16)}
    assert len(blocks) == 4 * 256
