"""Calls of a control net: encoded once, joined with others, several types at once; the net is untouched."""
import pytest
import torch
from control_nets import ControlNet, Heir, Union, new_net
from tweedie_pack.controls.calls import Features, View, alike, plain, run_once, run_together, run_union


def options(seed=0, rows=2, **more):
    generator = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(rows, 4, 6, 5, generator=generator),
            "hint": torch.rand(rows, 3, 12, 10, generator=generator),
            "timesteps": torch.full((rows,), 0.3), "context": torch.randn(rows, 7, 4, generator=generator),
            "y": None, **more}


def flat(output):
    return [one for listed in output.values() for one in listed]


def assert_same(given, expected, **tolerance):
    assert given.keys() == expected.keys()
    for one, other in zip(flat(given), flat(expected), strict=True):
        torch.testing.assert_close(one, other, **tolerance)


def assert_equal(given, expected):
    assert_same(given, expected, atol=0, rtol=0)


def contents(net):
    return [(name, dict(value) if isinstance(value, dict) else value) for name, value in vars(net).items()]


@pytest.mark.parametrize("kind", [ControlNet, Heir, Union])
def test_a_hint_is_encoded_once_and_the_net_is_untouched(kind):
    net, features = new_net(kind), Features()
    more = {"control_type": [1]} if kind is Union else {}
    before, weights = contents(net), [one.clone() for one in net.state_dict().values()]
    first, second = options(0, **more), options(1, **more)
    hint = first["hint"]
    for x in (first["x"], second["x"]):
        assert_equal(run_once(net, features, (hint,), {**first, "x": x}), type(net).forward(
            new_net(kind), **{**first, "x": x}))
    assert net.input_hint_block.rows == [2] and net.rows == [2, 2]
    assert_equal(run_once(net, features, (second["hint"],), second), new_net(kind)(**second))
    equal = hint.clone()  # equal, but the host made it anew
    run_once(net, features, (equal,), {**first, "hint": equal})
    assert net.input_hint_block.rows == [2, 2, 2]
    assert [name for name, _ in contents(net)] == [name for name, _ in before]
    assert all(a is b if isinstance(a, list) else a == b for (_, a), (_, b) in zip(
        contents(net), before, strict=True)) and not hasattr(net, "latest")
    assert all(map(torch.equal, weights, net.state_dict().values()))


def test_an_encoder_that_fails_leaves_nothing_behind():
    net, features, call = new_net(), Features(), options()
    with pytest.raises(RuntimeError):
        run_once(net, features, (call["hint"],), {**call, "hint": call["hint"][:, :2]})
    assert_equal(run_once(net, features, (call["hint"],), call), new_net()(**call))


def hook(net):
    return net.register_forward_hook(lambda net, given, output: {"middle": output["middle"]})


def hook_before(net):
    return net.register_forward_pre_hook(lambda net, given, named: (given, {**named, "scale": 2.0}),
                                         with_kwargs=True)


def replace(net):
    net.forward = lambda **options: {"middle": [options["x"]]}


@pytest.mark.parametrize("change", [hook, hook_before, replace])
def test_a_net_that_others_have_changed_is_called_plainly(change):
    net, features, call = new_net(), Features(), options()
    assert plain(net)
    change(net)
    for _ in range(2):
        assert_equal(run_once(net, features, (call["hint"],), call), net(**call))
    assert not plain(net) and features.hints == ()


def test_a_net_without_an_encoder_is_called_plainly():
    linear = torch.nn.Linear(2, 2)
    x = torch.ones(1, 2)
    assert not plain(linear) and not plain(lambda **options: None)
    assert torch.equal(run_once(linear, Features(), (x,), {"input": x}), linear(x))


def test_a_view_hands_out_the_nets_parts_and_its_calls():
    net, call, seen = new_net(), options(), []
    view = View(net, lambda net, options: seen.append((net, options)), extra=3)
    assert view.first is net.first and view.extra == 3 and isinstance(view, ControlNet)
    assert view(**call) is None and seen[0][0] is net and seen[0][1].keys() == call.keys()
    assert_equal(view(call["x"], call["hint"], call["timesteps"], call["context"]), net(**call))


@pytest.mark.parametrize("count", [2, 3])
def test_calls_together_equal_single_calls(count):
    net, features = new_net(), Features()
    calls = [options(seed) for seed in range(count)]
    calls[1] |= {"context": calls[1]["context"][:1], "hint": calls[1]["hint"][:1]}  # one row for all
    hints = tuple(call["hint"] for call in calls)
    outputs = run_together(net, calls, features, hints)
    assert net.rows == net.input_hint_block.rows == [2 * count] and len(outputs) == count
    for output, call in zip(outputs, calls, strict=True):
        alone = new_net()(**{**call, "hint": call["hint"].expand(2, -1, -1, -1)})
        assert_same(output, alone, atol=1e-6, rtol=0)
        assert output["output"][1] is output["output"][2] and output["output"][3] is None
        output["output"][0].mul_(0)  # as the host scales them, in place
    assert_same(run_together(net, calls, features, hints)[0], new_net()(**calls[0]), atol=1e-6, rtol=0)
    assert net.input_hint_block.rows == [2 * count]


@pytest.mark.parametrize("change", [
    {"x": torch.ones(2, 4, 6, 6)}, {"x": torch.ones(3, 4, 6, 5)}, {"hint": torch.ones(2, 3, 24, 20)},
    {"context": torch.ones(2, 14, 4)}, {"context": torch.ones(2, 7, 4).half()}, {"y": torch.ones(2, 8)},
    {"control_type": [1]}, {"scale": 0.5}], ids=lambda change: next(iter(change)))
def test_only_calls_that_are_alike_go_together(change):
    first, second = options(0), options(1)
    assert alike([first]) and alike([first, second])
    assert alike([first, {**second, "hint": second["hint"][:1]}])
    assert not alike([first, {**second, **change}]) and not alike([{**second, **change}, second, first])


def merged(calls, strengths, net=None, features=None):
    net = net or new_net(Union)
    features = features or [Features() for _ in calls]
    return run_union(net, calls, features, [(call["hint"],) for call in calls], strengths)


def test_one_type_of_a_union_is_the_nets_own_call():
    for kind in range(3):
        call = options(kind, control_type=[kind])
        assert_equal(merged([call], [1.0]), new_net(Union)(**call))


def test_several_types_of_a_union_run_in_one_call():
    net, before = new_net(Union), contents(new_net(Union))
    base = options()
    calls = [{**base, "hint": options(seed)["hint"], "control_type": [seed]} for seed in range(3)]
    features = [Features() for _ in calls]
    together = merged(calls, (1.0, 0.5, 0.2), net, features)
    assert net.rows == [2] and net.input_hint_block.rows == [2] * 3
    assert_equal(merged(calls, (1.0, 0.5, 0.2), net, features), together)
    assert net.input_hint_block.rows == [2] * 3 and vars(net).keys() == dict(before).keys()
    assert_same(merged(calls[::-1], (0.2, 0.5, 1.0)), together, atol=1e-6, rtol=1e-5)
    for strengths in ((1.0, 0.5), (1.0, 1.0, 0.2)):
        other = merged(calls[: len(strengths)], strengths)
        assert not torch.allclose(other["output"][0], together["output"][0])


def test_a_union_joins_features_and_tokens_by_their_strengths():
    net, base = new_net(Union), options(rows=1)
    calls = [{**base, "hint": options(seed, rows=1)["hint"], "control_type": [seed]} for seed in (0, 2)]
    near, far = (net.input_hint_block(call["hint"], None, None) for call in calls)
    tokens = torch.stack([0.7 * (near.mean((2, 3)) + net.task_embedding[0]),
                          0.4 * (far.mean((2, 3)) + net.task_embedding[2])], 1)
    moves = net.spatial_ch_projs(net.transformer_layes(tokens))[..., None, None]
    hint = 0.7 * (near + moves[:, 0]) + 0.4 * (far + moves[:, 1])
    rest = net.time_embed(base["timesteps"][:, None]) + net.read(base["context"]).mean(1)
    torch.testing.assert_close(merged(calls, (0.7, 0.4), net)["output"][0],
                               net.first(base["x"]) + hint + rest[..., None, None])
