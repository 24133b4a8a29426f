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
    here = "." not in name and importlib.util.find_spec(f"{__name__}.{name}") if name else None
    if here:
        return importlib.import_module(f"{__name__}.{name}.stages").SYSTEM
    try:
        return importlib.import_module(name or " ").SYSTEM
    except ModuleNotFoundError as error:
        if not name.startswith(error.name or " ") and name:
            raise  # the module is there, and something that it imports is not
        raise ValueError(f"config.system is {name!r}: choose sce_mae, or name a module that has a SYSTEM") from error
