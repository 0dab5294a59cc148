"""Changes random core lines (a sign, a bound, a constant) one at a time and says which changes no test notices.

    python -m tests.mutations --count 40 --seed 0

Each change is made in a copy of the checkout, where only the tests of that file run. Prints a line a mutation, and ends
with 1 if one survived. A survivor that changes no result, such as a block size, is for the reader to judge.
"""

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = Path("src/transformers_samdetr")
MODEL = "model/test_parity_fixtures model/test_operations model/test_modeling_sam_detr model/test_mask_padding"
# core file -> its tests, the quickest to fail first
TESTS = {
    "modeling_sam_detr.py": f"{MODEL} model/test_gradients",
    "encoder.py": f"{MODEL} model/test_deformable_attention",
    "decoder.py": f"{MODEL} model/test_initial_state",
    "semantics_aligner.py": f"model/test_aligner {MODEL}",
    "attention.py": MODEL,
    "backbone.py": f"{MODEL} model/test_loading",
    "geometry.py": f"{MODEL} model/test_loss data/test_box_formats",
    "operations.py": f"{MODEL} model/test_deformable_attention model/test_aligner",
    "loss.py": "model/test_loss model/test_parity_fixtures model/test_gradients",
    "image_processing_sam_detr.py": "processing prediction/test_converters evaluation model/test_parity_fixtures",
    "padding_masks.py": "model/test_mask_padding processing model/test_modeling_sam_detr",
    "annotations.py": "processing data/test_box_formats data/test_batch",
    "data/box_formats.py": "data/test_box_formats data/test_data_sources data/test_exports data/test_yolo_and_voc",
    "training/order.py": "training/test_order training/test_balance training/test_stream_order training/test_trainer",
    "training/resume.py": "training/test_checkpoint training/test_resume training/test_trainer",
    "training/checkpoint.py": "training/test_checkpoint training/test_resume training/test_trainer",
    "evaluation/average_precision.py": "evaluation",
    "evaluation/coco_evaluator.py": "evaluation",
    "evaluation/matching.py": "evaluation",
}
OPERATORS = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*"}
BOUNDS = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "=="}


def mutations(source: str) -> list[tuple[int, int, int, str]]:
    """(line, first column, last column, new text) of each possible change: none in texts, errors, types or imports."""
    lines, found = source.splitlines(), []

    def between(left: ast.expr, right: ast.expr, old_length: int, new: str) -> None:
        if left.end_lineno == right.lineno:
            text = lines[left.end_lineno - 1].encode()[left.end_col_offset : right.col_offset].decode()
            column = left.end_col_offset + len(text) - len(text.lstrip(" )"))
            found.append((left.end_lineno, column, column + old_length, new))

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom | ast.Assert):
            return
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            between(node.left, node.right, 1, OPERATORS[type(node.op)])
        if isinstance(node, ast.Compare) and type(node.ops[0]) in BOUNDS and len(node.ops) == 1:
            old = {ast.Lt: "<", ast.Gt: ">"}.get(type(node.ops[0]), "==")
            between(node.left, node.comparators[0], len(old), BOUNDS[type(node.ops[0])])
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            new = node.value + 1 if isinstance(node.value, int) else (node.value * 1.5 or 1.0)
            found.append((node.lineno, node.col_offset, node.end_col_offset, repr(new)))
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    visit(child)

    visit(ast.parse(source))
    return sorted(set(found))


def draw(count: int, seed: int) -> list[tuple[str, tuple[int, int, int, str]]]:
    """`count` lines of the core, and a change of each; files as often as they have such lines."""
    by_line: dict[tuple[str, int], list] = {}
    for name in TESTS:
        for change in mutations((ROOT / PACKAGE / name).read_text(encoding="utf-8")):
            by_line.setdefault((name, change[0]), []).append(change)
    generator = random.Random(seed)
    return [
        (name, generator.choice(by_line[name, line])) for name, line in sorted(generator.sample(sorted(by_line), count))
    ]


def is_noticed(copy: Path, name: str, change: tuple[int, int, int, str], timeout: float) -> bool:
    file = copy / PACKAGE / name
    original = file.read_text(encoding="utf-8")
    line, first, last, new = change
    lines = original.splitlines(keepends=True)
    text = lines[line - 1].encode()
    lines[line - 1] = (text[:first] + new.encode() + text[last:]).decode()
    file.write_text("".join(lines), encoding="utf-8")
    tests = [
        f"tests/{test}" if (copy / "tests" / test).is_dir() else f"tests/{test}.py" for test in TESTS[name].split()
    ]
    environment = {**os.environ, "PYTHONPATH": "src", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    try:
        run = subprocess.run(command, cwd=copy, env=environment, capture_output=True, timeout=timeout)
        return run.returncode in (1, 2)  # a test failed, or nothing could be imported
    except subprocess.TimeoutExpired:
        return True
    finally:
        file.write_text(original, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="+", help="numbers of the mutations to run, from 1")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for the tests of a mutation")
    parser.add_argument("--list", action="store_true", help="show the changes and run nothing")
    args = parser.parse_args()
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "checkout"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv*", "outputs"), symlinks=True)
        if (ROOT.parent / "shared").exists():
            (Path(folder) / "shared").symlink_to(ROOT.parent / "shared")
        for number, (name, change) in enumerate(draw(args.count, args.seed), 1):
            line, first, last, new = change
            text = (ROOT / PACKAGE / name).read_text(encoding="utf-8").splitlines()[line - 1]
            shown = f"{number:3} {name}:{line} {text.encode()[first:last].decode()!r} -> {new!r}: {text.strip()}"
            if args.list:
                print(shown)
            elif not args.only or number in args.only:
                start = time.perf_counter()
                noticed = is_noticed(copy, name, change, args.timeout)
                survivors += not noticed
                print(f"{'caught' if noticed else 'SURVIVED'} {time.perf_counter() - start:4.0f} s {shown}", flush=True)
    sys.exit(survivors > 0)


if __name__ == "__main__":
    main()
