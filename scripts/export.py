"""Writes a model as one file that runs without this package, and compares it with the model.

    python scripts/export.py --model outputs/digits --output outputs/digits.onnx
    python scripts/export.py --model outputs/digits --output outputs/digits.onnx --postprocess --top_k 50
    python scripts/export.py --model outputs/digits --output outputs/digits_page --format web
    python scripts/export.py --model outputs/digits --output outputs/digits.pt2 --format torch_export
    python scripts/export.py --model outputs/digits --output outputs/digits_int8.onnx --precision int8 --data digits
    python scripts/export.py --model outputs/digits --output outputs/digits.onnx --benchmark 256x256 --threads 2

ONNX needs `pip install "transformers-samdetr[export]"`, aot a C++ compiler. A file that is off is not left.
"""

from transformers_samdetr.commands.export import main

if __name__ == "__main__":
    main(__doc__)
