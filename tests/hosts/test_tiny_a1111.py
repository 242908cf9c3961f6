"""The tiny model's checkpoints in a real A1111: the same noise and words give the demo's own picture."""
import numpy as np
import pytest
import torch
from hosts.a1111host import A1111, PROBE, Host, table
from hosts.need import need
from tweedie_pack.demo.sampling import sample
from tweedie_pack.demo.tiny import checkpoint
from tweedie_pack.demo.tiny.model import decode, guide, load

PATH, PYTHON = need("A1111_PATH", "A1111_PYTHON")
CAPTION, STEPS, GUIDANCE = "a red star on the left and a green ring on the right, white background", 12, 3


@pytest.mark.parametrize("prediction", ("v", "epsilon"))
def test_a_written_checkpoint_draws_the_demos_picture(tmp_path, prediction):
    path = checkpoint.write(tmp_path, prediction)
    with Host(PATH, PYTHON, str(path), A1111, [PROBE]) as host:
        sigmas = table(host)
        pictures, _ = host.draw("txt2img", dict(
            prompt=CAPTION, negative_prompt="", width=128, height=128, steps=STEPS, sampler_name="Euler",
            scheduler="Simple", cfg_scale=GUIDANCE, seed=1))
        seen = torch.tensor([*host.call("probe/seen")["sigmas"], 0.0])
    model = load(prediction)
    torch.testing.assert_close(sigmas, model.table.float(), rtol=1e-4, atol=0)
    start = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1)).double() * seen[0]
    ours = 255 * decode(model, sample("Euler", guide(model, [CAPTION], GUIDANCE), start, seen))[0]
    theirs = torch.from_numpy(np.frombuffer(pictures[0], np.uint8).reshape(128, 128, 3).copy())
    assert (ours.movedim(0, -1) - theirs).abs().max() < 2 and ours.std() > 20
