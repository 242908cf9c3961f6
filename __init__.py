"""ComfyUI's door. Imports no host at module level: tests, the demo and the web UIs load the package too."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    from .nodes.extension import Extension
    return Extension()
