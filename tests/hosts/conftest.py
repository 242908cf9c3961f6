"""What the tests of every web UI share."""
import pytest


@pytest.fixture
def clean(host):
    """Table and options are after the test what they were before it, and no hook is left on a sampler."""
    host.call("probe/seen")
    before = host.call("probe/state")
    yield
    assert host.call("probe/state") == before
    assert host.call("probe/seen")["left"] == []
