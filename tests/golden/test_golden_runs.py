"""Short runs give the figures that are kept of them: a change that alters every run alike is seen here alone.

The figures are of one machine; processors differ in the last bits of a sum, and so does the tolerance allow. If a
change is meant to alter them: ``python benchmarks/golden_runs.py renew``, in a commit of its own that says why.
"""

import pytest

from tests.forked import finish, start
from tests.golden.runs import NAMES, command, golden, read_golden


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_golden_run_gives_the_figures_that_are_kept(name, tmp_path):
    made, words = command(name, tmp_path)
    log = tmp_path / "log.txt"
    assert finish(start("gigpo_lightning.cli", words, log)) == 0, log.read_text()[-4000:]
    assert golden(made) == {key: pytest.approx(value, rel=1e-3, abs=1e-5) for key, value in read_golden(name).items()}
