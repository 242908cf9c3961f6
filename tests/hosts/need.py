"""What a host test needs from its environment, or one line that says what is missing."""
import json
import os
import pathlib
import subprocess

import pytest


def need(*names: str) -> list[str]:
    """The environment variables' values; skips with the names of those that are unset."""
    if missing := [name for name in names if not os.environ.get(name)]:
        pytest.skip(f"set {' '.join(missing)} to test on this host", allow_module_level=True)
    return [os.environ[name] for name in names]


def run_checks(python: str, script: str, *arguments, **environment: str):
    """What a script beside this file prints in its last line, as JSON; run by the host's Python."""
    done = subprocess.run([python, pathlib.Path(__file__).with_name(script), *arguments], capture_output=True,
                          text=True, timeout=900, env=os.environ | environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
