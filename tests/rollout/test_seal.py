"""Of a file of trajectories a byte that is not as it was written is noticed, and every tool reads it as before."""

import pyarrow.parquet as pq
import pytest

from gigpo_lightning.rollout.seal import check_seal
from gigpo_lightning.rollout.store import read_trajectories, write_trajectories
from tests.rollout.test_store import GROUPS


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "epoch.parquet"
    write_trajectories(path, GROUPS, temperature=0.7)
    return path


def test_any_flipped_bit_is_noticed_or_changes_nothing(file):
    whole, expected, refused = file.read_bytes(), read_trajectories(file), 0
    for position in range(0, len(whole), 31):
        content = bytearray(whole)
        content[position] ^= 1 << position % 8
        file.write_bytes(content)
        try:
            assert read_trajectories(file) == expected, f"byte {position}"
        except ValueError:
            refused += 1
    assert refused > len(whole) / 31 - 2


def test_a_flipped_bit_of_the_footer_is_noticed(file):
    content = bytearray(file.read_bytes())
    content[-40] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"epoch.parquet is damaged"):
        read_trajectories(file)


def test_other_tools_read_it_and_a_file_of_theirs_passes(file, tmp_path):
    table = pq.read_table(file)
    assert table.num_rows == sum(len(each.steps) for group in GROUPS for each in group.trajectories)
    pq.write_table(table, tmp_path / "theirs.parquet")
    check_seal(tmp_path / "theirs.parquet")
    assert read_trajectories(tmp_path / "theirs.parquet") == read_trajectories(file)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"\xff" * 12])
def test_what_is_no_such_file_is_left_to_its_reader(tmp_path, content):
    (tmp_path / "other").write_bytes(content)
    check_seal(tmp_path / "other")
