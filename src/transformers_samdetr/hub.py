"""Folders that load anywhere: weights, processor, model card, and the code for places without this package."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from huggingface_hub import EvalResult, HfApi, ModelCardData
from huggingface_hub import ModelCard as HubCard

from .image_processing_sam_detr import SamDetrImageProcessor, SamDetrImageProcessorPil
from .modeling_sam_detr import SamDetrForObjectDetection

UPLOADED = ("*.json", "*.safetensors", "*.py", "*.onnx", "README.md")
NOT_STATED = "not stated"


@dataclass(frozen=True)
class ModelCard:
    """What the weights do not tell; a field left out reads "not stated" on the card.

    Attributes:
        name: heading of the card.
        source: a sentence or two on where the weights come from.
        training_data: in words.
        dataset_id: of the training data on the Hub, such as `"detection-datasets/coco"`, for its search.
        metrics: names and values, such as `{"COCO AP": 34.2}`.
        evaluation_data: what the metrics were measured on, in words.
        licence: identifier of the weights' licence as the Hub writes it, such as `"apache-2.0"`.
        repo_id: the Hub repository, for the example.
    """

    name: str | None = None
    source: str | None = None
    training_data: str | None = None
    dataset_id: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    evaluation_data: str | None = None
    licence: str | None = None
    repo_id: str | None = None

    def render(self, model: SamDetrForObjectDetection) -> str:
        """The card as Markdown, with the Hub's metadata in front."""
        results = None
        if self.metrics:
            dataset = self.dataset_id or "custom", self.evaluation_data or self.dataset_id or NOT_STATED  # type, name
            results = [EvalResult("object-detection", *dataset, name, value) for name, value in self.metrics.items()]
        data = ModelCardData(
            library_name="transformers",
            pipeline_tag="object-detection",
            license=self.licence,
            tags=["sam-detr", "object-detection", "vision", "custom_code"],
            datasets=[self.dataset_id] if self.dataset_id else None,
            eval_results=results,
            model_name=(self.name or "SAM-DETR") if results else None,
        )
        template = str(Path(__file__).with_name("model_card.md"))
        names = [name for _, name in sorted(model.config.id2label.items())]
        card = HubCard.from_template(data, template, card=self, model=model, names=names, not_stated=NOT_STATED)
        return card.content + "\n"


def save_for_hub(
    model: SamDetrForObjectDetection,
    processor: SamDetrImageProcessor | SamDetrImageProcessorPil,
    output_dir: str | Path,
    card: ModelCard | None = None,
) -> Path:
    """Writes config, safetensors, preprocessor, model card and code, then loads and compares them (`check_saved`).

    The folder is made if needed; other files in it stay.
    """
    output_dir = Path(output_dir)
    model.save_pretrained(output_dir)
    processor.save_pretrained(output_dir)
    (output_dir / "README.md").write_text((card or ModelCard()).render(model), encoding="utf-8")
    check_saved(model, processor, output_dir)
    return output_dir


def check_saved(model: SamDetrForObjectDetection, processor, folder: str | Path) -> None:
    """Raises a RuntimeError where `folder` loads to other classes, tensors, processor or outputs for a picture."""
    loaded = SamDetrForObjectDetection.from_pretrained(folder, dtype=model.dtype).to(model.device)
    ours, theirs = model.state_dict(), loaded.state_dict()
    wrong = [*(ours.keys() ^ theirs.keys())]
    for name in ours.keys() & theirs.keys():
        if ours[name].dtype != theirs[name].dtype or not torch.equal(ours[name], theirs[name]):
            wrong.append(name)
    if wrong:
        raise RuntimeError(f"{folder} does not load to the same weights; {len(wrong)} differ: {', '.join(wrong[:5])}.")
    # as JSON, in which a tuple is a list
    written, wanted = (json.loads(p.to_json_string()) for p in (type(processor).from_pretrained(folder), processor))
    if written != wanted:
        raise RuntimeError(f"{folder} does not load to the same image processor.")
    if loaded.config.id2label != model.config.id2label:
        raise RuntimeError(f"{folder} does not load to the same class names.")

    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, model.config.num_channels, 96, 128, generator=generator).to(model.device, model.dtype)
    was_training = model.training
    with torch.no_grad():
        expected, found = model.eval()(pixels), loaded.eval()(pixels)
    model.train(was_training)
    for name in ("logits", "pred_boxes"):
        if not torch.allclose(expected[name], found[name], atol=1e-5):
            raise RuntimeError(f"{folder} loads to a model with other {name}.")


def push_to_hub(folder: str | Path, repo_id: str, private: bool = False, commit_message: str | None = None) -> str:
    """Uploads a folder that `save_for_hub` has written, with exported `.onnx` files, and returns the commit's address.

    Raises:
        FileNotFoundError: the folder holds no saved model.
        RuntimeError: the Hub does not return the card that was uploaded.
    """
    folder = Path(folder)
    for needed in ("config.json", "README.md"):
        if not (folder / needed).is_file():
            raise FileNotFoundError(f"{folder} has no {needed}: write it with save_for_hub first.")
    api = HfApi()
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    commit = api.upload_folder(
        folder_path=folder,
        repo_id=repo_id,
        allow_patterns=list(UPLOADED),
        ignore_patterns=["*/*"],
        commit_message=commit_message or "Upload SAM-DETR",
    )
    card = api.hf_hub_download(repo_id, "README.md", revision=commit.oid)
    if Path(card).read_bytes() != (folder / "README.md").read_bytes():
        raise RuntimeError(f"{repo_id} has another README.md than {folder}: push again.")
    return str(commit.commit_url)
