"""What every process of a test needs: imported once by the server that `processes.py` forks them from."""

import accelerate  # noqa: F401
import torch._dynamo  # noqa: F401  # DistributedDataParallel asks for it

import tests.training_runs  # noqa: F401
from transformers_samdetr import SamDetrForObjectDetection  # noqa: F401
