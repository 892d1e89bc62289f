"""Lets the files in conf/hydra/ stand for themselves where Hydra or a plugin brings an option of the same name."""

from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.plugins.search_path_plugin import SearchPathPlugin

from experiments.config import CONF

OWN = {"sweeper": ("basic", "optuna"), "launcher": ("joblib",)}
_set_aside: dict[tuple[str, str], Any] = {}


class OwnOptions(SearchPathPlugin):
    """Hydra would check our files against the other option's schema, which has other keys, and warn about that."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        ours = any(str(element.path).removeprefix("file://") == str(CONF) for element in search_path.get_path())
        groups = ConfigStore.instance().repo.get("hydra", {})
        for group, names in OWN.items():
            for file in (f"{name}.yaml" for name in names):
                if ours and file in groups.get(group, {}):
                    _set_aside[group, file] = groups[group].pop(file)
                elif not ours and (group, file) in _set_aside:  # another program in this process
                    groups[group][file] = _set_aside.pop((group, file))
