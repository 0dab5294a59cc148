"""A page in the browser to try a model on; `serving.serve` shows it. Needs the extra `demo`."""

import os

# before Gradio is imported, which reads it then: nothing on this page goes to others
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
