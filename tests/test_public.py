"""The public surface: short, sorted, cheap to import, and the README's map of the folders is the tree."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import omma

PROJECT = Path(__file__).parents[1]
PACKAGE = PROJECT / "src" / "omma"


def test_import_omma_loads_no_torch_and_no_other_heavy_package():
    code = (
        "import sys, omma; heavy = {'torch', 'transformers', 'numpy', 'pyarrow', 'PIL', 'matplotlib', 'rich', 'typer'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_sorted_listed_once_and_known_to_editors():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    for_editors = {
        alias.name: node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    for_editors.pop("TYPE_CHECKING"), for_editors.pop("Any")
    assert for_editors == omma._MODULES
    assert sorted(omma.__all__) == sorted(omma._MODULES)
    by_kind = sorted(omma.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name))
    assert omma.__all__ == by_kind, "constants, types, functions, each by the alphabet"


@pytest.mark.parametrize("name", omma.__all__)
def test_every_public_name_can_be_imported_and_says_what_it_is(name):
    value = getattr(omma, name)
    assert callable(value)
    assert value.__doc__, f"omma.{name} has no docstring"
    assert len(value.__doc__.splitlines()[0]) > 20, f"the first line of omma.{name} does not say what you get"


def test_a_name_that_does_not_exist_is_answered_with_those_that_do():
    with pytest.raises(AttributeError, match=r"no public name 'Tabel'; it has VLM, Answer"):
        omma.Tabel  # noqa: B018
    assert set(omma.__all__) < set(dir(omma))


def readme_map() -> dict[str, str]:
    """The map's entries: name under src/omma -> its comment, continuation lines joined."""
    block = re.search(r"```text\nsrc/omma/\n(.*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)
    assert block, "the README has no ```text block that starts with src/omma/"
    entries: dict[str, str] = {}
    name = ""
    for line in block.group(1).splitlines():
        if entry := re.match(r"  (\S+)\s+(.*)", line):
            name, comment = entry.groups()
            entries[name] = comment
        else:
            entries[name] += " " + line.strip()
    return entries


def test_the_map_in_the_readme_is_the_tree():
    entries = readme_map()
    files = {path.name for path in PACKAGE.glob("*.py")}
    rooms = {
        path.name + "/": {str(file.relative_to(path)) for file in path.rglob("*.py") if file.name != "__init__.py"}
        for path in PACKAGE.iterdir()
        if path.is_dir() and path.name != "__pycache__"
    }
    assert sorted(entries) == sorted(files | set(rooms))
    for name, inside in rooms.items():
        assert set(re.findall(r"[\w/]+\.py\b", entries[name])) == inside, f"the map's line of {name}"


def test_the_quick_start_is_two_lines_that_install_from_the_pinned_versions():
    block = re.search(r"```bash\n(.*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)
    assert block
    run, test = block.group(1).splitlines()
    assert run.endswith("omma demo")
    assert test.endswith("pytest")
    assert "-c constraints.txt" in run
    assert "-c constraints.txt" in test


def test_every_dependency_is_pinned_at_a_version_that_the_project_allows():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    lines = (PROJECT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    for requirement in project["dependencies"] + project["optional-dependencies"]["test"]:
        name, least = re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", requirement).groups()
        assert numbers(pins[name]) >= numbers(least), requirement


def test_the_version_stands_in_one_form_everywhere():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert omma.__version__ == project["version"]


def numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]
