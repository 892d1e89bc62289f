"""How Lightning trains on several processes: who they are, and its DDP with validation outside of the wrapper."""

from typing import Any

from lightning_fabric.plugins.environments import ClusterEnvironment
from pytorch_lightning.strategies import DDPStrategy


class LaunchedEnvironment(ClusterEnvironment):
    """This process among the others, as Lightning wants to hear of it; they exist and have met already."""

    # No dataclass: Hydra would hand it on as a mapping.
    def __init__(self, world: int, rank: int = 0, local: int = 0, node: int = 0) -> None:
        super().__init__()
        self.world, self.rank, self.local, self.node = world, rank, local, node

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        raise NotImplementedError("the processes have met already")

    @property
    def main_port(self) -> int:
        raise NotImplementedError("the processes have met already")

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self.world

    def set_world_size(self, size: int) -> None: ...

    def global_rank(self) -> int:
        return self.rank

    def set_global_rank(self, rank: int) -> None: ...

    def local_rank(self) -> int:
        return self.local

    def node_rank(self) -> int:
        return self.node


class DDP(DDPStrategy):
    """Lightning's DDP for processes that see different numbers of validation images.

    The wrapper exchanges buffers in every forward pass, in validation too: the process with one image less would leave
    the others waiting. Validation therefore calls the module itself, which exchanges what there is at its end.
    """

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        assert self.lightning_module is not None
        with self.precision_plugin.val_step_context():
            return self.lightning_module.validation_step(*args, **kwargs)
