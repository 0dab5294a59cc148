"""SAM-DETR and SAM-DETR++ for Hugging Face Transformers.

Public names are imported at their first use, and registered with the Auto classes as soon as Transformers is imported.
"""

import sys
from copy import copy
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .auto_classes import *

__version__ = "0.1.0"
__all__ = [
    "SamDetrConfig",
    "SamDetrForObjectDetection",
    "SamDetrImageProcessor",
    "SamDetrImageProcessorPil",
    "SamDetrModel",
    "SamDetrModelOutput",
    "SamDetrObjectDetectionOutput",
    "SamDetrObjectDetectionPipeline",
    "SamDetrPreTrainedModel",
    "SemanticsAligner",
    "reference_operations",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.auto_classes"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Registration(MetaPathFinder):
    """Imports `auto_classes`, which registers, after Transformers: a command that prints its help waits for neither.

    If it is a file of this package that imports Transformers, that file is finished first.
    """

    depth = 0  # imports within each other

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        if name != "transformers" and not name.startswith(f"{__name__}."):
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next((spec for finder in others if (spec := finder.find_spec(name, path, target))), None)
        if spec is None or spec.loader is None:
            return spec
        spec.loader = copy(spec.loader)  # that of a zip file serves all its modules
        execute = spec.loader.exec_module

        def execute_and_register(module) -> None:
            self.depth += 1
            try:
                execute(module)
            finally:
                self.depth -= 1
            if not self.depth and "transformers" in sys.modules and self in sys.meta_path:
                sys.meta_path.remove(self)
                import_module(f"{__name__}.auto_classes")

        spec.loader.exec_module = execute_and_register
        return spec


if "transformers" in sys.modules:
    import_module(f"{__name__}.auto_classes")
else:
    sys.meta_path.insert(0, _Registration())
