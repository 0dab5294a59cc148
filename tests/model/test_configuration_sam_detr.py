import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import ResNetConfig

from transformers_samdetr import SamDetrConfig, SamDetrModel
from transformers_samdetr.configuration_sam_detr import SamDetrConfigError
from transformers_samdetr.presets import PRESETS

from ..models import TINY


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name, tmp_path):
    config = SamDetrConfig.from_preset(name)
    config.save_pretrained(tmp_path)
    assert SamDetrConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
    assert config.num_labels == 91 and config.id2label[90] == "toothbrush" and config.label2id["person"] == 1


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"num_feature_levels": 2}, "`num_feature_levels=2`.*1 .* or 3"),
        ({"num_keypoints": 3}, "`num_keypoints=3`.*1, 2, 4 or 8"),
        ({"decoder_attention_heads": 4}, "`num_keypoints=8`.*divisor of decoder_attention_heads=4"),
        ({"query_resampling": "mean"}, "`query_resampling='mean'`.*'average'"),
        ({"keypoint_search_range": "map"}, "`keypoint_search_range='map'`.*'box', 'image'"),
        ({"reference_boxes": "random"}, "`reference_boxes='random'`.*'learned', 'fixed'"),
        ({"query_resampling": "average", "smca": True}, "`smca=True`.*no keypoints"),
        ({"query_resampling": "none", "num_denoising_groups": 5}, "`num_denoising_groups=5`.*no reference boxes"),
        ({"decoder_feature_levels": [0, 0]}, r"`decoder_feature_levels=\[0, 0\]`.*each of the 6 decoder layers"),
        ({"decoder_feature_levels": [1] * 6}, "from 0 .finest. to 0"),
        ({"d_model": 100}, "`encoder_attention_heads=8`.*divide d_model=100"),
        ({"d_model": 48}, "`d_model=48`.*multiple of 32"),
        ({"num_queries": 0}, "`num_queries=0`.*at least 1"),
        ({"dropout": 1.5}, r"`dropout=1.5`.*\[0, 1\]"),
        ({"denoising_box_noise": 1.0}, "`denoising_box_noise=1.0`"),
        ({"bbox_loss_coefficient": -1}, "`bbox_loss_coefficient=-1`"),
        ({"class_cost": 0, "bbox_cost": 0, "giou_cost": 0}, "cannot all be 0"),
        ({"dilation": True, "backbone_config": {"model_type": "resnet"}}, "`dilation=True`.*use timm's"),
        ({"num_feature_levels": 3, "backbone_config": ResNetConfig(out_features=["stage4"])}, "out_indices"),
        ({"use_pretrained_backbone": True, "backbone_config": {"model_type": "resnet"}}, "load_backbone_weights"),
        ({"num_queries": "300"}, "^`num_queries='300'` is not possible: it must be int.$"),
        ({"num_queries": 300.5}, "^`num_queries=300.5` is not possible: it must be int.$"),
        ({"smca": 1}, "^`smca=1` is not possible: it must be bool.$"),
        ({"dropout": None}, "^`dropout=None` is not possible: it must be float or int.$"),
        ({"decoder_feature_levels": [0, "a"]}, r"^`decoder_feature_levels=\[0, 'a'\]` .* must be list\[int\] or tuple"),
        (
            {"backbone_config": "resnet50"},
            "^`backbone_config='resnet50'` .* must be dict or PreTrainedConfig or None.$",
        ),
        ({"backbone_config": {"backbone": "resnet50"}}, "`backbone_config={'backbone.*lacks 'model_type'.*timm"),
        (
            {"backbone_config": {"model_type": "timm_backbone", "backbone": "resnet5o"}},
            "`backbone_config.backbone='resnet5o'`.*is 'resnet50' meant",
        ),
        ({"backbone": "resnet50"}, "`backbone='resnet50'`.*backbone_config"),
        ({"activation_function": "rely"}, "`activation_function='rely'`.*relu"),
        ({"num_labels": 0}, "`num_labels=0`.*at least one class"),
        ({"num_querys": 10}, "^`num_querys=10` is not possible: is `num_queries` meant"),
    ],
)
def test_impossible_values_are_named_with_a_remedy(fields, message):
    with pytest.raises(ValueError, match=f"(?s){message}") as error:
        SamDetrConfig(**fields)
    # one sentence, under an error that huggingface_hub's own handlers know, too
    assert isinstance(error.value, SamDetrConfigError) and isinstance(error.value, StrictDataclassError)
    assert str(error.value).startswith("`") and "\n" not in str(error.value)


def test_fields_that_are_set_later_are_validated_too():
    config = SamDetrConfig(**TINY)
    with pytest.raises(ValueError, match="^`num_queries='many'` is not possible"):
        config.num_queries = "many"
    config.num_keypoints = 3
    for validate in (config.validate, lambda: SamDetrModel(config)):
        with pytest.raises(ValueError, match="^`num_keypoints=3` is not possible: choose 1, 2, 4 or 8"):
            validate()


def test_a_preset_takes_no_unknown_field():
    with pytest.raises(ValueError, match="^`smka=True` is not possible: there is no such field; is `smca` meant"):
        SamDetrConfig.from_preset("sam-detr-r50", smka=True)
    with pytest.raises(ValueError, match="^`xyzzy=1` is not possible: there is no such field.$"):
        SamDetrConfig.from_preset("sam-detr-r50", xyzzy=1)
    allowed = {"hidden_size": 512, "num_labels": 3, "attn_implementation": "eager", "output_hidden_states": True}
    config = SamDetrConfig.from_preset("sam-detr-r50", **allowed)
    assert config.d_model == 512 and config.num_labels == 3 and config._attn_implementation == "eager"


def test_what_a_later_version_may_add_is_kept():
    """A config.json with names that this version does not know still loads, as for every Transformers model."""
    config = SamDetrConfig(a_new_idea=3, transformers_version="9.0")
    assert config.a_new_idea == 3 and SamDetrConfig.from_dict(config.to_dict()).a_new_idea == 3


def test_unknown_preset_lists_the_presets():
    with pytest.raises(ValueError, match="no preset 'sam-detr'.*sam-detr-pp-r50-smca-dn"):
        SamDetrConfig.from_preset("sam-detr")


def test_coarse_to_fine_levels():
    assert SamDetrConfig.from_preset("sam-detr-pp-r50").decoder_feature_levels == [2, 2, 1, 1, 0, 0]
    assert SamDetrConfig(num_feature_levels=3, decoder_layers=4).decoder_feature_levels == [2, 2, 1, 0]
    assert SamDetrConfig().decoder_feature_levels == [0] * 6


def test_preset_overrides():
    config = SamDetrConfig.from_preset("sam-detr-pp-r50", num_labels=3, num_queries=50)
    assert (config.num_labels, config.num_queries, config.encoder_ffn_dim) == (3, 50, 1024)


def test_forms_of_class_names():
    for names in (["cat", "dog"], ("cat", "dog"), {"0": "cat", "1": "dog"}, {1: "dog", 0: "cat"}):
        assert SamDetrConfig.from_preset("sam-detr-tiny", id2label=names).id2label == {0: "cat", 1: "dog"}
    for names in ({1: "cat", 2: "dog"}, {0: "cat", 2: "dog"}):
        with pytest.raises(SamDetrConfigError, match=r"id2label=.*: number the classes from 0 on, without gaps"):
            SamDetrConfig(id2label=names)
    with pytest.raises(SamDetrConfigError, match="id2label=.*give the names by label, such as"):
        SamDetrConfig(id2label={"cat": 0, "dog": 1})
