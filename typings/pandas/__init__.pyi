"""pandas ships no types, and what pyright infers of its code is wrong: all of it is Any."""

from typing import Any

def __getattr__(name: str) -> Any: ...
