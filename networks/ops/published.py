"""Published weights under the names used here."""

from collections.abc import Mapping

from torch import Tensor


def renamed(state: Mapping[str, Tensor], names: Mapping[str, str], whose: str) -> dict[str, Tensor]:
    """A state dict under other names, in the order of `names`; shapes are left to `load_state_dict`.

    Args:
        names: from all names that `state` should have to those used here.
        whose: what the state is of, for messages: "official GFN".

    Raises:
        ValueError: if a parameter is missing or one is not theirs; the message names all of them.
    """
    missing = [name for name in names if name not in state]
    unexpected = [name for name in state if name not in names]
    if missing or unexpected:
        raise ValueError(
            f"not the {whose} weights: missing {', '.join(missing) or 'none'}; "
            f"unexpected {', '.join(unexpected) or 'none'}"
        )
    return {ours: state[theirs] for theirs, ours in names.items()}
