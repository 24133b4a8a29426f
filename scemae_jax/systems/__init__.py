"""The systems: a folder for each paper, with its settings, losses and stages."""

import importlib
import importlib.util

from scemae_jax.config import Config
from scemae_jax.experiment import System


def system_of(config: Config) -> System:
    """The system that `config.system` names: a folder here, or a module of yours that has a `SYSTEM`.

    Raises:
      ValueError: there is neither.
    """
    name = config.get("system", "")
    parts = name.split(".")
    unknown = f"config.system is {name!r}: choose sce_mae or spcl, or name a module that has a SYSTEM"
    if not name:
        raise ValueError(unknown)
    if len(parts) == 1 and importlib.util.find_spec(f"{__name__}.{name}"):
        name = f"{__name__}.{name}.stages"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in [".".join(parts[: count + 1]) for count in range(len(parts))]:
            raise  # the module is there, and something that it imports is not
        raise ValueError(unknown) from error
    if not hasattr(module, "SYSTEM"):
        raise ValueError(unknown)
    return module.SYSTEM
