"""The floors of the house: imports go to a lower floor only, and shipped files keep to what Transformers can read.

Transformers copies the flat files beside the weights of a Hub repository. It finds them with regular expressions over
their text, and asks the user to install every absolute import that is not guarded.
"""

import ast
import re
import sys
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_imports, get_relative_imports

PACKAGE = Path(__file__).parents[1] / "src" / "transformers_samdetr"
FLOORS = (
    ("operations", "pictures", "presets"),
    ("configuration_sam_detr", "fast_operations", "fast_resnet", "geometry"),
    ("annotations", "attention", "loss", "padding_masks", "pretrained_model", "routes"),
    ("backbone", "image_processing_sam_detr", "semantics_aligner"),
    ("encoder", "decoder"),
    ("modeling_sam_detr",),
    ("hub",),  # from here on, nothing that is shipped
    ("conversion",),
    ("auto_classes",),
    ("__init__",),
    ("visualization",),  # sub-packages
    ("data",),
    ("evaluation",),
    ("export", "training"),
    ("prediction",),
    ("demo",),
    ("commands",),
)
FLOOR = {module: floor for floor, modules in enumerate(FLOORS) for module in modules}
ENTRY_FILES = (
    "configuration_sam_detr",
    "image_processing_sam_detr",
    "modeling_sam_detr",
)
"""Files with the classes that a repository's `auto_map` names."""
ALLOWED_REQUIREMENTS = {"numpy", "PIL", "timm", "torch", "torchvision", "transformers"} | {
    "huggingface_hub",
    "safetensors",
}
"""What every model needs, and what Transformers itself brings; SciPy, for the matching, is guarded."""
LONGEST_FILE = 600

FILES = sorted(PACKAGE.rglob("*.py"))
FLAT_FILES = sorted(PACKAGE.glob("*.py"))


def name_of(path: Path) -> str:
    """`modeling_sam_detr`, or `training.trainer` in a sub-package."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def resolve(target: str) -> str | None:
    """The file that the dotted path below the package is in."""
    for name in (target, f"{target}.__init__" if target else "__init__"):
        if (PACKAGE / (name.replace(".", "/") + ".py")).is_file():
            return name
    return None


def internal_imports(path: Path, text: str | None = None) -> set[str]:
    """Names of the package's files that a file imports, anywhere in it and in whatever form."""
    folder = path.parent.relative_to(PACKAGE).parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8") if text is None else text)):
        if isinstance(node, ast.Import):
            targets = [tuple(alias.name.split(".")) for alias in node.names]
            candidates = [[target[1:]] for target in targets if target[0] == PACKAGE.name]
        elif isinstance(node, ast.ImportFrom):
            module = tuple(node.module.split(".")) if node.module else ()
            if node.level:
                base = folder[: len(folder) - node.level + 1] + module
            elif module[0] == PACKAGE.name:
                base = module[1:]
            else:
                continue
            # the name may be a file, or something in the file it is imported from
            candidates = [[(*base, alias.name), base] for alias in node.names]
        else:
            continue
        for options in candidates:
            resolved = next((name for name in map(resolve, map(".".join, options)) if name is not None), None)
            assert resolved is not None, f"{name_of(path)}, line {node.lineno}: imports what is not there"
            found.add(resolved)
    return found


def floor_of(name: str) -> int:
    return FLOOR[name.split(".")[0]]


IMPORTS = {name_of(path): internal_imports(path) for path in FILES}


def below(start: str) -> set[str]:
    """Files that `start` needs, itself included."""
    needed, waiting = set(), [start]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += IMPORTS[name]
    return needed


SHIPPED = sorted(set().union(*map(below, ENTRY_FILES)))


def test_every_file_has_a_floor():
    missing = sorted({name.split(".")[0] for name in IMPORTS} - FLOOR.keys())
    assert not missing, f"give {missing} a floor in FLOORS"
    assert len(FLOOR) == sum(map(len, FLOORS)), "a file stands on two floors"


@pytest.mark.parametrize("name", IMPORTS)
def test_imports_go_down(name):
    for imported in IMPORTS[name]:
        if "." in name and name.split(".")[0] == imported.split(".")[0]:
            continue  # within a sub-package: test_sub_packages_have_no_circles
        assert floor_of(imported) < floor_of(name), (
            f"{name} on floor {floor_of(name)} imports {imported} on floor {floor_of(imported)}"
        )


def test_sub_packages_have_no_circles():
    for name, imported in IMPORTS.items():
        for other in imported:
            assert name not in below(other), f"{name} imports {other}, which needs {name}"


@pytest.mark.parametrize(
    ("file", "text", "imported"),
    [
        ("geometry.py", "from .loss import x", {"loss"}),
        ("geometry.py", "def f():\n    from . import loss, SamDetrModel", {"loss", "__init__"}),
        ("data/load.py", "from .. import pictures\nfrom .schema import x", {"pictures", "data.schema"}),
        ("data/load.py", "import transformers_samdetr.training.trainer", {"training.trainer"}),
        ("data/load.py", "from transformers_samdetr import loss\nfrom transformers import x", {"loss"}),
        ("data/load.py", "from ..visualization import draw_detections", {"visualization.__init__"}),
    ],
)
def test_every_form_of_import_is_seen(file, text, imported):
    assert internal_imports(PACKAGE / file, text) == imported


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_files_import_each_other_in_the_one_form(name):
    assert "." not in name and name != "__init__"
    for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and node.module and "." not in node.module, f"line {node.lineno}"
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
        assert PACKAGE.name not in {module.split(".")[0] for module in names}, f"line {node.lineno}"


@pytest.mark.parametrize("name", SHIPPED)
def test_transformers_reads_the_imports_that_there_are(name):
    path = PACKAGE / f"{name}.py"
    assert set(get_relative_imports(path)) == IMPORTS[name]
    unknown = set(get_imports(path)) - sys.stdlib_module_names - ALLOWED_REQUIREMENTS
    assert not unknown, f"users would have to install {unknown}: guard the import with try"

    # releases before 5 looked for absolute imports in the raw text too
    text = path.read_text(encoding="utf-8")
    lines = re.findall(r"^\s*(?:import\s+(\S+)\s*$|from\s+(\S+)\s+import)", text, flags=re.MULTILINE)
    nodes = list(ast.walk(ast.parse(text)))
    modules = {"." * node.level + (node.module or "") for node in nodes if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    assert {one or other for one, other in lines} <= modules, "a line of text reads like an import"


def test_the_product_does_not_import_the_laboratory():
    laboratory = {path.parent.name for path in (PACKAGE.parents[1] / "scripts").glob("*/__init__.py")}
    assert laboratory == {"benchmarks", "experiments"}
    for path in FILES:
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        names = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
        names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        assert laboratory.isdisjoint(name.split(".")[0] for name in names), name_of(path)


SHORT = {
    "evaluation.set_loss": "training and evaluation share it",
    "auto_classes": "what Transformers registers, for `__init__` to import at first use",
    "commands.convert": "each command has a file",
    "commands.demo": "each command has a file",
}
"""Files of less than 40 lines, and why they are not part of another."""


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_have_40_to_600_lines(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_FILE
    assert path.name == "__init__.py" or (lines < 40) == (name_of(path) in SHORT)


def test_no_two_files_have_one_name():
    """A command is called as what it runs."""
    names = [path.name for path in FILES if path.name != "__init__.py" and path.parent.name != "commands"]
    assert sorted(names) == sorted(set(names))
