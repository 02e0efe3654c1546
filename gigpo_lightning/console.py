"""The console scripts: ``gigpo`` and ``gigpo-sweep``, whatever a user's own packages are called."""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

_ROOT = Path(__file__).resolve().parent.parent
_OURS = ("callbacks", "datamodules", "modules")


class OwnPackages(importlib.abc.MetaPathFinder):
    """Finds our packages with general names here, though a user's project has packages of these names.

    Submodules that ours have not are found in the user's: ``callbacks.mine`` is a class path of theirs as before.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Where one of ours is; nothing for any other."""
        if fullname not in _OURS:
            return None
        folders = [_ROOT, *(Path(folder) for folder in sys.path)]
        found = [str(folder / fullname) for folder in folders if (folder / fullname / "__init__.py").is_file()]
        file = _ROOT / fullname / "__init__.py"
        places = list(dict.fromkeys(found))
        return importlib.util.spec_from_file_location(fullname, file, submodule_search_locations=places)


def gigpo() -> None:
    """``gigpo fit | validate | test | predict``."""
    sys.meta_path.insert(0, OwnPackages())
    from gigpo_lightning.cli import main

    main()


def sweep() -> None:
    """``gigpo-sweep``."""
    sys.meta_path.insert(0, OwnPackages())
    from gigpo_lightning.sweep import main

    main()
