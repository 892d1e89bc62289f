"""What is said of packages to install, in a checkout and beside a wheel."""

import importlib.util
import shutil
from pathlib import Path

from datamodules import installed


def test_in_a_checkout() -> None:
    assert (installed.ROOT / "run.py").is_file()
    assert installed.extra("serve") == "pip install -c constraints.txt -e '.[serve]'"


def test_beside_a_wheel(tmp_path: Path) -> None:
    """Where a wheel puts the module, there is neither a constraints.txt nor anything to be installed from."""
    (tmp_path / "datamodules").mkdir()
    file = shutil.copy(installed.__file__, tmp_path / "datamodules")
    spec = importlib.util.spec_from_file_location("installed_elsewhere", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert tmp_path == module.ROOT
    assert not module.CHECKOUT
    assert module.extra("serve") == "pip install 'deblur-sr[serve]'"
    assert module.PIP_INSTALL == "pip install"


def test_every_line_about_packages_is_of_this_module() -> None:
    rooms = ("networks", "datamodules", "lightning_modules", "experiments")
    files = [installed.ROOT / "run.py", *(file for room in rooms for file in (installed.ROOT / room).rglob("*.py"))]
    own = [file.name for file in files if "constraints.txt" in file.read_text("utf-8")]
    assert own == ["installed.py"]
