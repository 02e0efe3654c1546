"""Fixtures that every test may ask for."""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from beartype import BeartypeConf
from beartype.claw import beartype_packages
from hypothesis import HealthCheck, settings

from tests import forked
from tests.scripts import loaded

# Annotations are checked while tests run: of modules with arrays by jaxtyping, shapes too (pyproject.toml), of all
# others by beartype alone, which costs a tenth. Before anything of them is imported.
beartype_packages(("gigpo_lightning", "modules", "datamodules", "callbacks"), conf=BeartypeConf(claw_is_pep526=False))

# A busy machine is no defect, and one commit gives one result.
steady = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("steady", steady)
settings.register_profile("quick", steady, max_examples=10)
settings.load_profile(os.environ.get("GIGPO_HYPOTHESIS_PROFILE", "steady"))

ROOT = Path(__file__).resolve().parent.parent

# The packages behind the adapters of environments, if `make test` has fetched them: here, and in processes begun later.
with loaded(ROOT / "tools" / "environments.py") as fetched:
    for packages in filter(Path.is_dir, fetched.adapters()):
        sys.path.append(str(packages))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), sys.path[-1])))


def pytest_configure(config: pytest.Config) -> None:
    """Begin the server of forks for all processes of the tests, where there are several."""
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        forked.serve()


# Of a job of several processes: Lightning sets them for good, and a process that is begun later would heed them.
JOB = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "RANK", "LOCAL_RANK", "WORLD_SIZE")


@pytest.fixture(autouse=True)
def no_job_is_left_behind() -> Iterator[None]:
    """Puts the variables of a job back after each test that has opened one in this process."""
    before = {name: os.environ.get(name) for name in JOB}
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(scope="session")
def repository_root() -> Path:
    """The checkout that is under test."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data that is never part of the project: ``GIGPO_TEST_DATA``, or a folder beside the checkout."""
    folder = Path(os.environ.get("GIGPO_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs real data in {folder}; set GIGPO_TEST_DATA to where it is")
    return folder


# Files of more than a minute, the longest first: one that begins late is waited for in the end.
LONGEST = ("resume", "learning", "run", "llm", "fast", "engines", "gpu_day", "chat_run", "ranks", "export", "shuffled")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, then the others with slow tests: no process waits long for the last one."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    places = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (places.get(item.path.name, len(places)), item.path not in slow))


def pytest_collection_finish() -> None:
    """Have the garbage collector leave out what is there for good, and look at the rest less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


def pytest_sessionfinish() -> None:
    """Let it collect all: extension modules complain of what is left at the end."""
    gc.unfreeze()
