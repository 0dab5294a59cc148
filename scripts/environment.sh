# Sourced by quickstart.sh and test.sh: a virtual environment in .venv with the package and the extras named in $1.
# PYTHON chooses the interpreter; VENV another folder; TORCH_INDEX_URL another source of torch, such as CPU-only builds.
PYTHON="${PYTHON:-python3}"
VENV="${VENV:-.venv}"
if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    echo "Python 3.10 or newer is needed; $("$PYTHON" --version 2>&1) was found. Set PYTHON=/path/to/python3." >&2
    exit 2
fi
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
# shellcheck disable=SC1091
. "$VENV/bin/activate"
python -c 'import torch, torchvision' 2>/dev/null || {
    echo "Installing PyTorch …"
    python -m pip install --quiet ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} torch torchvision
}
echo "Installing transformers_samdetr and its $1 extras …"
python -m pip install --quiet --editable ".[$1]"
