"""The console scripts: ``gigpo`` and ``gigpo-sweep``, whatever a user's own packages are called."""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

INTERRUPTED = 130  # what a shell calls a process that SIGINT ended
_ROOT = Path(__file__).resolve().parent.parent


class OwnPackages(MetaPathFinder):
    """Finds our packages with general names here, though a user's project has packages of these names.

    Submodules that ours have not are found in the user's: ``callbacks.mine`` is a class path of theirs as before.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where one of ours is; nothing for any other."""
        if fullname not in ("callbacks", "datamodules", "modules"):
            return None
        packages = dict.fromkeys(Path(folder) / fullname for folder in (str(_ROOT), *sys.path))
        found = [str(each) for each in packages if (each / "__init__.py").is_file()]
        return spec_from_file_location(fullname, f"{found[0]}/__init__.py", submodule_search_locations=found)


def gigpo() -> None:
    """``gigpo fit | validate | test | predict | export | check-environment``."""
    from gigpo_lightning.quick_answers import answer  # imports less than a run, and ``gigpo-sweep`` needs none of it

    answer(sys.argv[1:])
    _main("gigpo_lightning.check_command" if sys.argv[1:2] == ["check-environment"] else "gigpo_lightning.cli")


def sweep() -> None:
    """``gigpo-sweep``."""
    _main("gigpo_lightning.sweep.command")


def _main(module: str) -> None:
    sys.meta_path.insert(0, OwnPackages())
    try:
        main = importlib.import_module(module).main
    except KeyboardInterrupt:  # imports take seconds
        sys.stderr.write("interrupted before anything began\n")
        raise SystemExit(INTERRUPTED) from None
    main()
