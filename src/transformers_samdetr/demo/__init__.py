"""A page in the browser to try a model on: `build_page` makes it, `serve` shows it. Needs the extra `demo`."""

import os

# before Gradio is imported, which reads it then: nothing on this page goes to others
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
try:
    import gradio  # noqa: F401
except ImportError as error:
    raise ImportError("The demo is a Gradio page: pip install 'transformers-samdetr[demo]'") from error

from .limits import Limits
from .page import build_page
from .served_model import ServedModel
from .serving import serve

__all__ = ["Limits", "ServedModel", "build_page", "serve"]
