"""A custom node for the tests: writes down the sigmas with which a run of this model really begins."""
import json
import os
import pathlib

import comfy.patcher_extension


class ProbeSigmas:
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "patch", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "name": ("STRING", {"default": "run"})}}

    def patch(self, model, name):
        def note(executor, guider, sigmas, *args, **kwargs):
            sampling = guider.inner_model.model_sampling
            seen = {"sigmas": sigmas.tolist(), "maximum": float(sampling.sigma_max),
                    "sampler": type(executor.class_obj).__name__,
                    "half": float(sampling.percent_to_sigma(0.5))}
            pathlib.Path(os.environ["TWEEDIE_PROBE"], f"{name}.json").write_text(json.dumps(seen))
            return executor(guider, sigmas, *args, **kwargs)
        patched = model.clone()
        patched.add_wrapper(comfy.patcher_extension.WrappersMP.SAMPLER_SAMPLE, note)
        return (patched,)


NODE_CLASS_MAPPINGS = {"ProbeSigmas": ProbeSigmas}
