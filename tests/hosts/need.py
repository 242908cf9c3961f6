"""What a host test needs from its environment, or one line that says what is missing."""
import os

import pytest


def need(*names: str) -> list[str]:
    """The environment variables' values; skips with the names of those that are unset."""
    if missing := [name for name in names if not os.environ.get(name)]:
        pytest.skip(f"set {' '.join(missing)} to test on this host", allow_module_level=True)
    return [os.environ[name] for name in names]
