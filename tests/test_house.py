"""The house keeps its plan: imports run one way, files stay small, every file a host looks for is there."""
import ast
import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
HOSTS = {"comfy", "comfy_api", "comfy_extras", "folder_paths", "nodes", "modules", "modules_forge", "backend",
         "ldm_patched", "gradio", "server", "execution", "latent_preview"}
ROOMS = {  # room -> rooms of ours that it may import, and hosts that it may know
    "plugin.py": (set(), set()),
    "samplers": ({"plugin", "samplers"}, set()),
    "controls": ({"plugin", "controls"}, set()),
    "nodes": ({"plugin", "samplers", "controls", "nodes", "demo"},
              {"comfy", "comfy_api", "comfy_extras", "folder_paths", "latent_preview"}),
    "extensions_a1111": ({"plugin", "samplers", "controls", "extensions_a1111"},
                         {"modules", "modules_forge", "backend", "ldm_patched", "gradio"}),
    "demo": ({"plugin", "samplers", "controls", "demo"}, set()),
    "__init__.py": ({"nodes"}, set()),
}
SOURCES = [path for path in sorted(ROOT.rglob("*.py")) if not {".venv", "build", "plugins"} & set(path.parts)]


def imports(path):
    """(room of ours or None, top-level module or None) for every import in a file."""
    inside = path.relative_to(ROOT).parts
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((None, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield None, node.module.split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            above = list(inside[: len(inside) - node.level])
            target = above + (node.module.split(".") if node.module else [node.names[0].name])
            yield target[0].removesuffix(".py"), None


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_one_way(room):
    ours, hosts = ROOMS[room]
    for path in [ROOT / room] if room.endswith(".py") else sorted((ROOT / room).rglob("*.py")):
        for mine, foreign in imports(path):
            assert mine is None or mine in ours, f"{path.relative_to(ROOT)} imports {mine}"
            assert foreign not in HOSTS - hosts, f"{path.relative_to(ROOT)} imports the host's {foreign}"
            assert foreign != "tweedie_pack", f"{path.relative_to(ROOT)}: relative imports only"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path):
    text = path.read_text("utf-8")
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= 45, f"{node.name} is {lines} lines"
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), "bare except"
        assert not isinstance(node, ast.Global), "global"
        assert not (isinstance(node, ast.ImportFrom) and node.names[0].name == "*"), "import *"


def test_rooms_are_namespace_packages():
    """An __init__.py in a folder of so general a name would shadow other extensions' modules on Forge."""
    for room in ("nodes", "samplers", "controls", "extensions_a1111", "tests", "scripts", "demo"):
        assert not (ROOT / room / "__init__.py").exists()


def test_the_package_imports_without_a_host_and_without_heavy_libraries():
    code = ("import sys, importlib.util as u; s = u.spec_from_file_location('tweedie_pack', "
            f"r'{ROOT / '__init__.py'}', submodule_search_locations=[r'{ROOT}']); "
            "m = u.module_from_spec(s); sys.modules['tweedie_pack'] = m; s.loader.exec_module(m); "
            "import tweedie_pack.samplers.schedules, tweedie_pack.samplers.measure; "
            "bad = {'cv2', 'kornia', 'ultralytics', 'scipy', 'PIL', 'diffusers', 'matplotlib'}; "
            "sys.exit(', '.join(bad & set(sys.modules)) or 0)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_node_has_its_help_page_and_every_workflow_is_json():
    ids = {line.split('"')[1] for path in (ROOT / "nodes").glob("*.py")
           for line in path.read_text("utf-8").splitlines() if "node_id=" in line}
    assert ids and ids == {page.stem for page in (ROOT / "web" / "docs").glob("*.md")}
    for path in [*(ROOT / "example_workflows").glob("*.json"), *(ROOT / "locales").rglob("*.json")]:
        json.loads(path.read_text("utf-8"))


def test_installing_where_nothing_is_missing_changes_nothing():
    before = subprocess.run([sys.executable, "-m", "pip", "freeze"], capture_output=True, text=True).stdout
    done = subprocess.run([sys.executable, ROOT / "install.py"], capture_output=True, text=True)
    after = subprocess.run([sys.executable, "-m", "pip", "freeze"], capture_output=True, text=True).stdout
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "") and before == after


def test_installing_pins_what_must_not_move(monkeypatch, capsys):
    from importlib.util import module_from_spec, spec_from_file_location
    spec = spec_from_file_location("install_under_test", ROOT / "install.py")
    install = module_from_spec(spec)
    spec.loader.exec_module(install)
    calls = []

    def pip(command):
        pinned = pathlib.Path(command[command.index("--constraint") + 1]).read_text("utf-8")
        calls.append((command[5:], pinned))
        return 1
    monkeypatch.setattr(install, "NEEDED", {"torch": "torch", "no_such_module": "no-such-package"})
    monkeypatch.setattr(install.subprocess, "call", pip)
    assert install.main() == 1
    assert calls[0][0][-1] == "no-such-package" and "torch" not in calls[0][0]
    assert "torch==" in calls[0][1] and "numpy==" in calls[0][1]
    assert "add them by hand" in capsys.readouterr().out
