"""Make `.venv` with this checkout in it, editable: what `make install` runs.

Needs the standard library, a C++ compiler the first time, and whatever package index `pip` is set up for. A second
call returns at once unless what is to be installed changed.
"""

import argparse
import ast
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "gigpo-lightning.json"
COMPILED = ("fast-downward-textworld", "jericho")
"""Published as source only. Their wheels fit every Python, so one build serves every clone."""
WHEELS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gigpo-lightning" / "wheels"
PIP_TO_UV = {"index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX", "find-links": "UV_FIND_LINKS"}

logger = logging.getLogger("install")


class InstallError(Exception):
    """What is missing, and what to do about it."""


def main() -> None:
    """Install the extra named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extra", nargs="?", choices=("cpu", "cuda"), help="where vLLM computes; default: as installed")
    extra = parser.parse_args().extra or installed_extra()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        install(extra)
    except InstallError as error:
        sys.exit(f"make install: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"make install: `{' '.join(map(str, error.cmd))}` failed with exit status {error.returncode}")


def install(extra: str) -> None:
    """Bring `.venv` to the state that pyproject.toml asks for, if it is not there yet."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = {"extra": extra, "digest": digest(project)}
    installed = json.loads(STAMP.read_text()) if STAMP.is_file() else None
    if installed == wanted and (VENV / "bin" / "gigpo").exists():
        return
    make_venv(anew=installed is not None and installed["extra"] != extra)
    pins = {pin.split("==")[0]: pin for pin in project["project"]["optional-dependencies"]["alfworld"]}
    build_wheels([pins[name] for name in COMPILED])
    logger.info("Installing %s", f".[{extra},alfworld,dev]")
    settings = uv_settings()
    if extra == "cpu" and not offers(cpu_torch(project), settings):
        settings["UV_TORCH_BACKEND"] = "cpu"
    uv(["install", "--editable", f"{ROOT}[{extra},alfworld,dev]"], settings)
    STAMP.write_text(json.dumps(wanted))


def installed_extra() -> str:
    """The extra that `.venv` was made with, so that `make test` does not undo `make install EXTRA=cuda`; else "cpu"."""
    return str(json.loads(STAMP.read_text())["extra"]) if STAMP.is_file() else "cpu"


def digest(project: dict[str, object]) -> str:
    """Fingerprint of everything that decides what `.venv` holds; settings of linters do not."""
    tools = project["tool"]
    assert isinstance(tools, dict)
    parts = [project["build-system"], project["project"], tools["hatch"], tools["uv"], str(ROOT)]
    return hashlib.sha256(json.dumps(parts).encode() + Path(__file__).read_bytes()).hexdigest()


def make_venv(anew: bool) -> None:
    """Make the virtual environment and put uv into it; one that works is kept unless ``anew``."""
    working = (VENV / "bin" / "python").exists() and run(["-c", "import pip"], check=False).returncode == 0
    if anew or not working:
        logger.info("Making .venv with Python %d.%d", *sys.version_info[:2])
        made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], stdout=subprocess.DEVNULL)
        if made.returncode != 0:
            raise InstallError("Python cannot make virtual environments; on Debian: apt-get install python3-venv")
    if not (VENV / "bin" / "uv").exists():
        run(["-m", "pip", "install", "-qq", "uv"])


def build_wheels(pins: list[str]) -> None:
    """Compile what is published as source only, unless an earlier install, here or in another clone, has."""
    missing = [pin for pin in pins if not list(WHEELS.glob(f"{pin.replace('-', '_').replace('==', '-')}-*.whl"))]
    if not missing:
        return
    absent = [tool for tool in ("cc", "c++", "make") if shutil.which(tool) is None]
    if absent:
        raise InstallError(
            f"ALFWorld's planner is compiled once, which needs {', '.join(absent)} on PATH; "
            "on Debian: apt-get install g++ make; on macOS: xcode-select --install"
        )
    logger.info("Compiling %s; this takes a few minutes, once (kept in %s)", " and ".join(missing), WHEELS)
    WHEELS.mkdir(parents=True, exist_ok=True)
    run(["-m", "pip", "wheel", "-qq", "--no-deps", "--wheel-dir", str(WHEELS), *missing])


def uv_settings() -> dict[str, str]:
    """Tell uv where pip is configured to look, unless uv has settings of its own."""
    settings: dict[str, str] = {}
    listed = run(["-m", "pip", "config", "list"], stdout=subprocess.PIPE).stdout.splitlines()
    # pip lets the environment (":env:", listed first) win over its files.
    for line in reversed(listed):
        key, _, value = line.partition("=")
        option = key.rpartition(".")[2]
        if option in PIP_TO_UV:
            # Both separate several places by white space, but find-links is a comma-separated list to uv.
            places = str(ast.literal_eval(value)).split()
            settings[PIP_TO_UV[option]] = ("," if option == "find-links" else " ").join(places)
        elif option == "cert":
            settings["SSL_CERT_FILE"] = ast.literal_eval(value)
    found_at = os.environ.get("UV_FIND_LINKS") or settings.get("UV_FIND_LINKS")
    settings["UV_FIND_LINKS"] = f"{found_at},{WHEELS}" if found_at else str(WHEELS)
    # As pip does: the best version of all places, not the first place that knows the name.
    settings["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    # The interpreter is the one that runs this; uv must not fetch another.
    settings["UV_PYTHON_DOWNLOADS"] = "never"
    return {name: value for name, value in settings.items() if name == "UV_FIND_LINKS" or name not in os.environ}


def cpu_torch(project: dict[str, object]) -> str:
    """The build of torch that vLLM for CPUs was compiled against, as a requirement."""
    metadata = project["project"]
    assert isinstance(metadata, dict)
    pin = next(pin for pin in metadata["optional-dependencies"]["cpu"] if pin.startswith("torch=="))
    return f"{pin}+cpu" if sys.platform == "linux" else str(pin)


def offers(requirement: str, settings: dict[str, str]) -> bool:
    """Whether the configured places have a package; PyTorch keeps its CPU builds in an index of its own."""
    return uv(["install", "--dry-run", "--quiet", "--no-deps", requirement], settings, check=False) == 0


def uv(arguments: list[str], settings: dict[str, str], *, check: bool = True) -> int:
    """Run `uv pip` on `.venv` and return its exit status; output is hidden where failure is an answer."""
    environment = {**os.environ, **settings, "VIRTUAL_ENV": str(VENV)}
    stderr = None if check else subprocess.DEVNULL
    return subprocess.run(
        [str(VENV / "bin" / "uv"), "pip", *arguments], env=environment, check=check, stderr=stderr, cwd=ROOT
    ).returncode


def run(arguments: list[str], *, check: bool = True, stdout: int | None = None) -> "subprocess.CompletedProcess[str]":
    """Run `.venv`'s Python with its folder first on PATH: one of the builds calls plain `python`."""
    environment = {**os.environ, "PATH": f"{VENV / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    command = [str(VENV / "bin" / "python"), *arguments]
    return subprocess.run(command, env=environment, check=check, stdout=stdout, text=True)


if __name__ == "__main__":
    main()
