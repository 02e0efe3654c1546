"""The console scripts find this project's packages, and a user's, though they have the same names."""

import os
import subprocess
import sys

import pytest

from gigpo_lightning import console
from tests.conftest import ROOT

ASKS = """
import sys
sys.argv = ["gigpo", "fit", "--help"]
from gigpo_lightning.console import gigpo, sweep
for script in (gigpo, sweep):
    try:
        script()
    except SystemExit as stop:
        assert not stop.code, stop.code
import callbacks, modules, datamodules
from callbacks.mine import Mine
"""


@pytest.mark.slow
def test_a_user_s_packages_of_our_names_do_no_harm_and_are_found(tmp_path):
    for name in ("callbacks", "modules", "datamodules"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('the user's own')\n".replace("'s", ""))
    (tmp_path / "callbacks" / "mine.py").write_text("class Mine:\n    pass\n")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-c", ASKS]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]


def test_ctrl_c_during_the_imports_ends_with_130_and_no_traceback(tmp_path, monkeypatch, capsys):
    (tmp_path / "slow_start.py").write_text("raise KeyboardInterrupt")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    with pytest.raises(SystemExit) as stop:
        console._main("slow_start")
    assert stop.value.code == 130
    assert "interrupted" in capsys.readouterr().err
