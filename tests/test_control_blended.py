"""A blend over controls like those of ComfyUI, without a host: who is asked when, and what is remembered."""
import pytest
import torch
from control_nets import new_net
from tweedie_pack.controls.blended import Blend
from tweedie_pack.controls.blends import BLENDS
from tweedie_pack.controls.children import Call, Child, out_of_range
from tweedie_pack.controls.curves import read_curve
from tweedie_pack.controls.multi import Batch, Reuse, Rule

STEPS, OFF, EVERY_FIFTH = 10, Reuse(), Reuse("interval", 5)


class Control:
    """A control with a net, a hint of noise, and sigmas from which and to which it acts."""

    def __init__(self, net, span=None):
        self.strength, self.control_model, self.cond_hint, self.timestep_range = 1.0, net, None, span
        self.hint = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def get_control(self, x, t, cond, chunks, options):
        if out_of_range(self, t):
            return None
        self.cond_hint = self.hint
        out = self.control_model(x=x, hint=self.cond_hint, timesteps=t, context=cond["context"])
        return {key: list(out.get(key, ())) for key in ("input", "output", "middle")}


def ask(control, *given):
    return control.get_control(*given)


def call(step, kinds):
    """Step `step` of ten, a row for each prompt; sigma falls from 10 to 1."""
    count = len(kinds)
    x = torch.randn(count, 4, 2, 2, generator=torch.Generator().manual_seed(step))
    return Call(ask, out_of_range, x, torch.full((count,), float(STEPS - step)),
                {"context": torch.ones(count, 5, 4)}, {"cond_or_uncond": list(kinds)},
                Batch(count, kinds, (2, 2)), step / STEPS, step, STEPS - 1, kinds, x)


def run(children, reuse=OFF, kinds=(0, 1)):
    """The blend after a run, and its answers."""
    blend = Blend(children, BLENDS["sum"], reuse)
    with torch.no_grad():
        return blend, [blend.answer(call(step, kinds)) for step in range(STEPS)]


def why(blend, number=0):
    return [entry.why[number] for entry in blend.record]


@pytest.mark.parametrize("reuse", (OFF, EVERY_FIFTH), ids=("off", "reuse"))
def test_nothing_stands_in_outside_a_controls_range(reuse):
    blend, answers = run([Child(Control(new_net(), span=(8.0, 5.0)), Rule())], reuse)
    assert [answer is not None for answer in answers] == [False] * 2 + [True] * 4 + [False] * 4
    assert why(blend)[:2] == ["out of range"] * 2 and why(blend)[6:] == ["out of range"] * 4


def test_residuals_stand_in_and_say_so():
    net = new_net()
    blend, answers = run([Child(Control(net), Rule())], EVERY_FIFTH)
    assert len(net.rows) == 3 and why(blend) == ["", *["reused"] * 4, "", *["reused"] * 3, ""]
    assert torch.equal(answers[0]["middle"][0], answers[4]["middle"][0])
    assert not torch.equal(answers[4]["middle"][0], answers[5]["middle"][0])


@pytest.mark.parametrize("rule, reason", [
    (Rule(read_curve("0", "")), "weight 0"), (Rule(mask=torch.zeros(1, 4, 4)), "empty mask")])
def test_a_silent_control_is_not_called(rule, reason):
    net = new_net()
    blend, answers = run([Child(Control(net), rule)])
    assert not net.rows and answers == [None] * STEPS and set(why(blend)) == {reason}


def test_rows_that_do_not_count_are_not_computed():
    net, whole = new_net(), new_net()
    _, answers = run([Child(Control(net), Rule(uncond=0.0))])
    _, both = run([Child(Control(whole), Rule())])
    assert set(net.rows) == {1} and set(whole.rows) == {2}
    for one, other in zip(answers, both, strict=True):
        torch.testing.assert_close(one["middle"][0][:1], other["middle"][0][:1])
        assert not one["middle"][0][1:].any()


def test_a_batch_of_negatives_alone_is_no_call_and_no_record():
    net = new_net()
    blend, answers = run([Child(Control(net), Rule(uncond=0.0))], kinds=(1, 1))
    assert not net.rows and answers == [None] * STEPS and not blend.record


@pytest.mark.parametrize("joins", (True, False))
def test_controls_of_one_net_share_its_calls_where_they_may(joins):
    net = new_net()
    _, answers = run([Child(Control(net), Rule(), joins), Child(Control(net), Rule(), joins)])
    _, alone = run([Child(Control(new_net()), Rule())])
    assert net.rows[:STEPS] == [4 if joins else 2] * STEPS and len(net.rows) == STEPS * (1 if joins else 2)
    torch.testing.assert_close(answers[3]["output"][0], 2 * alone[3]["output"][0])
    assert answers[3]["output"][1] is answers[3]["output"][2]  # a repeated tensor stays one


def test_the_control_has_its_own_net_back_and_forgets_when_told():
    net = new_net()
    control = Control(net)
    blend, _ = run([Child(control, Rule())], EVERY_FIFTH)
    [child] = blend.children
    assert control.control_model is net and child.kept and child.memory
    blend.forget()
    assert not (child.kept or child.memory or child.weigher.fitted)
