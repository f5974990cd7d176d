"""The package that users install: its public names, its command, and what its wheel holds."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import starling
from starling import hooks
from starling.engine.hooks import Client, Refuse

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# What users may import, next to the names of the package itself.
PUBLIC_MODULES = {"starling", "starling.broadcast", "starling.hooks", "starling.testing"}


def imported_modules(path: Path) -> set[str]:
    """The modules that a Python file imports, in functions too."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module)
    return modules


def run(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """The interpreter of this test with these arguments."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=directory, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_public_names_are_those_of_the_engine() -> None:
    assert hooks.Client is Client
    assert hooks.Refuse is Refuse
    assert set(hooks.__all__) <= set(starling.__all__)
    for name in starling.__all__:
        assert name in dir(starling)
        assert getattr(starling, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'Hub'"):
        _ = starling.Hub


@pytest.mark.processes
def test_importing_the_package_imports_nothing_of_it(tmp_path: Path) -> None:
    shown = run("-c", "import starling, sys; print([m for m in sys.modules if 'starling.' in m])", directory=tmp_path)
    assert shown.stdout == "[]\n", shown.stderr


def test_the_docs_name_public_modules_only() -> None:
    files = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    named = {
        (file.name, module)
        for file in files
        for module in re.findall(r"(?:^|`)\s*(?:from|import) (starling[\w.]*)", file.read_text(), re.MULTILINE)
    }
    examples = list((ROOT / "docs" / "examples").glob("*.py"))
    named |= {(file.name, module) for file in examples for module in imported_modules(file)}
    own = {(file, module) for file, module in named if module.partition(".")[0] == "starling"}
    assert own
    assert {(file, module) for file, module in own if module not in PUBLIC_MODULES} == set()


def test_tools_and_configuration_to_copy_import_nothing_of_the_tests() -> None:
    files = [*(ROOT / "tools").rglob("*.py"), *(ROOT / "deploy").rglob("*.py"), *(ROOT / "app").rglob("*.py")]
    assert files
    assert {file for file in files for module in imported_modules(file) if module.partition(".")[0] == "tests"} == set()


def test_every_tool_agrees_on_one_source_root() -> None:
    tool = PROJECT["tool"]
    assert tool["hatch"]["build"]["targets"]["wheel"]["packages"] == ["app/starling"]
    assert tool["mypy"]["mypy_path"] == "app"
    assert "app" in tool["pytest"]["ini_options"]["pythonpath"]
    assert tool["importlinter"]["root_package"] == "starling"
    assert tool["coverage"]["run"]["source_pkgs"] == ["starling"]
    assert Path(starling.__file__) == ROOT / "app" / "starling" / "__init__.py", "the editable install"
    assert [path.name for path in (ROOT / "app").iterdir() if path.name != "__pycache__"] == ["starling"]


@pytest.mark.processes
def test_python_runs_the_package_as_the_command(tmp_path: Path) -> None:
    shown = run("-m", "starling", "--version", directory=tmp_path)
    assert (shown.returncode, shown.stdout) == (0, f"{starling.__version__}\n"), shown.stderr
    usage = run("-m", "starling", "--help", directory=tmp_path).stdout
    assert "Usage: starling" in usage or "Usage: python -m starling" in usage


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it is published."""
    directory = tmp_path_factory.mktemp("wheel")
    command = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(directory), str(ROOT)]
    made = run(*command, directory=directory)
    assert made.returncode == 0, made.stderr
    [path] = directory.glob("*.whl")
    return path


@pytest.mark.processes
def test_an_installed_wheel_brings_the_plugin_of_pytest(wheel: Path, tmp_path: Path) -> None:
    installed, project = tmp_path / "installed", tmp_path / "project"
    zipfile.ZipFile(wheel).extractall(installed)
    project.mkdir()
    (project / "test_own.py").write_text(
        "import pytest\nimport starling as package\n\n\n"
        "@pytest.mark.asyncio\nasync def test_it(starling):\n"
        f"    assert package.__file__.startswith({str(installed)!r})\n"
        '    ann = await starling.connect("ann", channels=["a"])\n'
        '    await starling.starling.publish("a", 1)\n'
        '    await ann.expect("a", 1)\n'
    )
    options = ["-p", "no:cacheprovider", "-o", "asyncio_default_fixture_loop_scope=function"]
    shown = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-q", *options, str(project)],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "1 passed" in shown.stdout, shown.stdout + shown.stderr


@pytest.mark.processes
def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    metadata = f"starling_realtime-{starling.__version__}.dist-info"
    assert {name.partition("/")[0] for name in names} == {"starling", metadata}
    packed = {name.removeprefix("starling/") for name in names if name.startswith("starling/")}
    source = ROOT / "app" / "starling"
    tracked = {
        str(Path(directory, file).relative_to(source))
        for directory, _, files in os.walk(source)
        for file in files
        # What `make docs-site` writes is not part of the package.
        if "__pycache__" not in directory and file != "guide.zip"
    }
    assert packed == tracked
