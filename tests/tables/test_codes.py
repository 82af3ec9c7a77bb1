import pytest
import torch

from recsys.tables.codes import CodeLayout


@pytest.mark.parametrize("num_choices", [1, 2, 3, 32, 129, 256])
@pytest.mark.parametrize("num_rare_choices", [1, 5, 256])
@pytest.mark.parametrize(
    ("num_parts", "num_ids", "num_frequent"), [(1, 1, 1), (3, 57, 11), (2, 9, 0)]
)
def test_codes_are_read_as_they_were_packed_from_bits_by_hand(
    num_choices, num_rare_choices, num_parts, num_ids, num_frequent
):
    rare = min(num_rare_choices, num_choices)
    layout = CodeLayout(num_parts, num_ids, num_frequent, num_choices, rare)
    drawn = torch.Generator().manual_seed(0)
    codes = torch.stack(
        [
            torch.randint(
                0, num_choices if i < num_frequent else rare, (num_parts,), generator=drawn
            )
            for i in range(num_ids)
        ]
    )
    stream = ""
    for i in range(num_ids):
        width = len(f"{(num_choices if i < num_frequent else rare) - 1:b}")
        stream += "".join(f"{int(c):0{width}b}"[::-1] for c in codes[i])
    stream += "0" * (-len(stream) % 8)
    expected = [int(stream[place : place + 8][::-1], 2) for place in range(0, len(stream), 8)]
    packed = layout.pack(codes)
    assert packed.tolist() == expected
    assert layout.num_bytes == len(expected)
    ids = torch.randperm(num_ids, generator=drawn)
    assert torch.equal(layout.read(packed, ids), codes[ids])
    assert layout.read(packed, ids[:0]).shape == (0, num_parts)
