"""Runs in ComfyUI's Python: what blended controls leave behind, and beside another pack's, as JSON."""
import importlib.util
import json
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import in_comfyui  # noqa: F401, I001
import comfy.hooks
import comfy.model_management
import torch
from hosts.controls_checks import Desk, apart, blend, halves, rule, same
from hosts.tiny_controls import CPU

STEPS = {"steps": 4}
OOM = comfy.model_management.OOM_EXCEPTION
INTERRUPT = comfy.model_management.InterruptProcessingException
HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def nets_of(desk):
    return [net for control in desk.nets
            if (net := getattr(control, "control_model", None) or getattr(control, "t2i_model", None))]


def look(desk):
    """Everything that a run must leave as it was, of the model's patcher and of the nets."""
    callbacks = {kind: {key: list(map(id, calls)) for key, calls in keyed.items()}
                 for kind, keyed in desk.bench.model.callbacks.items() if keyed}
    modules = [(sorted(vars(module)), {hook: len(getattr(module, hook)) for hook in HOOKS}, type(module))
               for net in nets_of(desk) for module in net.modules()]
    return callbacks, modules, [sorted(vars(control)) for control in desk.nets]


def kept_by(control):
    """What a blend still holds of a run, by name."""
    found = ["started"] * bool(control.started) + ["sampling"] * (control.sampling is not None)
    for child in control.blend.children:
        found += [name for name in ("memory", "kept") if getattr(child, name)]
        found += ["fitted"] * bool(child.weigher.fitted)
        found += ["cond_hint"] * (child.control.cond_hint is not None)
        found += ["model_sampling"] * (getattr(child.control, "model_sampling_current", None) is not None)
        found += ["net of a lora"] * (type(child.control).__name__ == "ControlLora" and child.net is not None)
        found += ["view"] * (type(child.net).__name__ == "View")
    return found


def break_net(desk, error, call):
    """Let the second net fail at its n-th call from now on, once."""
    seen = []

    def fail(*_arguments):
        seen.append(1)
        if len(seen) == call:
            raise error
    part = nets_of(desk)[1]
    part = (getattr(part, "zero_convs", None) or getattr(part, "controlnet_blocks", None) or part.body)[-1]
    return part.register_forward_hook(fail)


def stopped(error):
    def stop(step, *_arguments):
        if step == 1:
            raise error
    return stop


def check_failing(name):
    """Every way in which a run ends, and what is there afterwards."""
    desk, (left, _) = Desk(name), halves()
    pair = desk.chain([0, 1, 0])
    ours = blend(pair, rule(mask=left), reuse={"reuse": "interval", "interval": 2}, policy="rms")
    control = ours[0][0][1]["control"]
    plain = desk.run(pair, **STEPS)
    before = look(desk)  # the host marks what it has loaded
    first = desk.run(ours, **STEPS)
    found = {"differs": not same(plain, first), "finished": kept_by(control), "state": look(desk) == before}
    for label, error in (("interrupt", INTERRUPT()), ("error", RuntimeError("a child failed")),
                         ("out of memory", OOM("none left"))):
        for where in ("callback", "net"):
            if where == "net" and not nets_of(desk):
                continue
            hook = break_net(desk, error, 1 if name == "t2i" else 2) if where == "net" else None
            try:
                desk.run(ours, callback=None if hook else stopped(error), **STEPS)
                ended = "it went on"
            except type(error):
                ended = ""
            if hook:
                hook.remove()
            found[f"{label} in {where}"] = [
                ended, kept_by(control), look(desk) == before, same(desk.run(pair, **STEPS), plain),
                same(desk.run(ours, **STEPS), first)]
    return found


def check_starting(name):
    """A child that can't begin."""
    desk = Desk(name)
    pair = desk.chain([0, 1])
    plain, ours, before = desk.run(pair), blend(pair), look(desk)
    control, (_, second) = ours[0][0][1]["control"], ours[0][0][1]["control"].controls
    own = second.pre_run

    def fail(*_arguments):
        raise OOM("none left")
    second.pre_run = fail
    try:
        desk.run(ours)
        ended = "it went on"
    except OOM:
        ended = ""
    second.pre_run = own
    return [ended, kept_by(control), look(desk) == before, same(desk.run(ours), plain)]


def check_host(name):
    """What the host asks a control for besides its residuals."""
    desk = Desk(name)
    pair = desk.chain([0, 1])
    stock, ours = desk.run(pair), blend(pair)
    control = ours[0][0][1]["control"]
    chain = pair[0][0][1]["control"]
    models, needs = control.get_models(), [3, 7]
    found = {"models": sorted(map(id, models)) == sorted(map(id, chain.get_models())),
             "once": len(models) == len(set(map(id, models)))}
    for one, need in zip(control.controls, needs, strict=True):
        one.inference_memory_requirements = lambda dtype, need=need: need
    found["memory"] = control.inference_memory_requirements(torch.float32)
    for one in control.controls:
        del one.inference_memory_requirements
    copied = control.copy()
    found["copy"] = same(desk.run(swap(ours, copied)), stock) and not {
        *map(id, copied.controls)} & {*map(id, control.controls)}
    found["copy, behind"] = copied.previous_controlnet is None
    hooks = comfy.hooks.HookGroup()
    control.controls[1].extra_hooks = hooks
    found["hooks"] = control.get_extra_hooks() == [hooks]
    control.controls[1].extra_hooks = None
    if name == "lora":  # the host's own class can't
        return found
    cloned = control.deepclone_multigpu(CPU, autoregister=True)
    found["registered"] = control.get_instance_for_device(CPU) is cloned
    nets = [{id(getattr(one, "control_model", None) or one.t2i_model) for one in group.controls}
            for group in (control, cloned)]
    found["own nets"] = not nets[0] & nets[1]
    found["clone"] = same(desk.run(swap(ours, cloned)), stock)
    found["with its clone"] = same(desk.run(ours), stock) and not kept_by(cloned) and not kept_by(control)
    return found


def swap(pair, control):
    return tuple([[text, {**values, "control": control}] for text, values in prompt] for prompt in pair)


def load_acn():
    """Advanced-ControlNet from ACN_PATH: its node that applies a control, and the one for a keyframe."""
    path = pathlib.Path(os.environ["ACN_PATH"])
    spec = importlib.util.spec_from_file_location("acn", path / "__init__.py",
                                                  submodule_search_locations=[str(path)])
    sys.modules["acn"] = package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    from acn.adv_control.nodes_keyframes import TimestepKeyframeNode
    from acn.adv_control.nodes_main import AdvancedControlNetApply
    return AdvancedControlNetApply.execute, TimestepKeyframeNode.execute


def check_acn(name):
    """Controls of Advanced-ControlNet, with a mask and keyframes, among stock ones."""
    apply, keyframe = load_acn()
    desk, (left, right) = Desk(name), halves()
    frames = keyframe(0.5, strength=0.3, mask_optional=right, prev_timestep_kf=keyframe(0.0)[0])[0]

    def through(pair, number, hint):
        return tuple(apply(*pair, desk.nets[number], desk.hint(hint), 0.9, 0.0, 1.0, mask_optional=left,
                           timestep_kf=frames).result[:2])
    stock, found = desk.chain([0]), {}
    for label, pair in (("alone", through(desk.texts(), 1, 1)), ("after stock", through(stock, 1, 1)),
                        ("before stock", desk.chain([0], after=through(desk.texts(), 1, 1))),
                        ("twice", through(through(desk.texts(), 1, 1), 1, 2))):
        plain = desk.run(pair, **STEPS)
        found[label] = same(desk.run(blend(pair), **STEPS), plain)
        found[f"{label}, moved"] = apart(plain, desk.run(desk.texts(), **STEPS))
        found[f"{label}, again"] = same(desk.run(blend(pair), **STEPS), plain)
    pair = through(stock, 1, 1)
    ours = blend(pair, rule(), rule(uncond=0))
    found["uncond 0"] = apart(desk.run(ours, **STEPS), desk.run((pair[0], stock[1]), **STEPS))
    found["class"] = type(ours[0][0][1]["control"].controls[1]).__name__
    found["kept"] = kept_by(ours[0][0][1]["control"])
    return found


CHECKS = {name.removeprefix("check_"): check for name, check in globals().items()
          if name.startswith("check_")}

if __name__ == "__main__":
    check, *names = sys.argv[1:]
    with torch.no_grad():
        print(json.dumps({name: CHECKS[check](name) for name in names}))
