import logging
import math
import textwrap
from typing import Annotated, Literal

import pytest
from tweedie_pack.plugin import Range, Registry, load_plugins


def registry():
    rows = Registry("steps", "table")

    @rows.add("first", "First")
    def first(steps, table, rho: Annotated[float, Range(1, 20, 0.1, "tip")] = 7.0,
              count: Annotated[int, Range(0, 9)] = 2, kind: Literal["a", "b"] = "a", flag: bool = False):
        """Help text."""
        return steps, table, rho, count, kind, flag
    return rows


def test_a_signature_is_a_form():
    plugin = registry()["first"]
    assert [(knob.name, knob.kind, knob.default, knob.choices) for knob in plugin.knobs] == [
        ("rho", float, 7.0, ()), ("count", int, 2, ()), ("kind", str, "a", ("a", "b")),
        ("flag", bool, False, ())]
    assert plugin.help == "Help text." and plugin.knobs[0].range == Range(1, 20, 0.1, "tip")
    assert plugin(3, "t", rho=2, kind="b") == (3, "t", 2.0, 2, "b", False)


@pytest.mark.parametrize("knobs, reason", [
    ({"rho": 21}, "rho is 21; give a number from 1 to 20"), ({"rho": math.nan}, "rho is nan"),
    ({"rho": "7"}, "rho is '7'"),
    ({"kind": "c"}, "choose one of a, b"), ({"size": 1}, "unknown knob size; it has rho, count, kind, flag"),
])
def test_bad_knobs_are_refused(knobs, reason):
    with pytest.raises(ValueError, match=f"First: .*{reason}"):
        registry()["first"](1, 2, **knobs)


def test_a_row_must_keep_the_contract():
    rows = Registry("steps", "table")
    with pytest.raises(TypeError, match=r"'x': f\(steps\) must start with \(steps, table\)"):
        @rows.add("x", "X")
        def f(steps): ...
    with pytest.raises(TypeError, match="knob rho has no default"):
        @rows.add("y", "Y")
        def g(steps, table, rho: Annotated[float, Range(0, 1)]): ...
    assert not rows


def test_two_rows_with_one_id_are_refused():
    rows = registry()
    with pytest.raises(ValueError, match=r"'first' is taken by .*first; pick another id"):
        @rows.add("first", "Again")
        def first(steps, table): ...
    assert rows["first"].label == "First"


def write(folder, name, body):
    (folder / name).write_text(textwrap.dedent(body), "utf-8")


def test_a_failing_plugin_is_named_and_undone_and_the_rest_loads(tmp_path, caplog):
    write(tmp_path, "a_raises.py", """
        from ..samplers.schedules import SCHEDULES
        @SCHEDULES.add("half_done", "Half done")
        def half_done(steps, table): ...
        raise RuntimeError("on purpose")
    """)
    write(tmp_path, "b_broken.py", "def (")
    write(tmp_path, "c_taken.py", """
        from ..samplers.schedules import SCHEDULES
        @SCHEDULES.add("karras", "Mine")
        def karras(steps, table): ...
    """)
    write(tmp_path, "d_good.py", """
        from ..samplers.schedules import SCHEDULES
        @SCHEDULES.add("good", "Good")
        def good(steps, table): ...
    """)
    write(tmp_path, "_ignored.py", "raise SystemExit")
    from tweedie_pack.samplers.schedules import SCHEDULES
    before = dict(SCHEDULES)
    try:
        with caplog.at_level(logging.ERROR, "tweedie"):
            failures = load_plugins(tmp_path, "tweedie_pack", {"SCHEDULES": SCHEDULES})
        assert failures[0].split(":")[-1].strip() == "on purpose"
        assert len(failures) == 3 and "'karras' is taken" in failures[2]
        assert SCHEDULES.keys() - before.keys() == {"good"} and SCHEDULES["karras"] is before["karras"]
        assert "Traceback" in caplog.text and "a_raises.py" in caplog.text
    finally:
        SCHEDULES.pop("good", None)


def test_an_entry_point_gets_the_registries_and_range(tmp_path):
    class Point:
        name = "theirs"

        def load(self):
            def register(tweedie):
                @tweedie.SCHEDULES.add("theirs", "Theirs")
                def theirs(steps, table, knob: Annotated[float, tweedie.Range(0, 1)] = 0.5): ...
            return register

    rows = registry()
    assert load_plugins(tmp_path / "none", "tweedie_pack", {"SCHEDULES": rows}, [Point()]) == []
    assert rows["theirs"].knobs[0].default == 0.5
