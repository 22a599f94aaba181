"""Groups of parameters: what each takes and refuses by itself, in a word of its message."""

from typing import get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from mist_bench.models.multiscale import Scales
from mist_bench.models.specs import (
    AdamPairSpec,
    AdamSpec,
    AutoencoderSpec,
    ClassifierSpec,
    DetectorSpec,
    EncoderSpec,
    HeatmapSpec,
    KeypointSpec,
    Networks,
    OfficialSpec,
)


@pytest.mark.parametrize(
    ("spec", "values", "words"),
    [
        (HeatmapSpec, {"stride": 1}, "compact has stride 2 or 4, not 1"),
        (HeatmapSpec, {"networks": "official", "stride": 2}, "official has stride 1, not 2"),
        (HeatmapSpec, {"networks": "compakt"}, "'compact', 'official', 'features'"),
        (HeatmapSpec, {"channels": 0}, "greater than or equal to 1"),
        (HeatmapSpec, {"channels": 8.0}, "valid integer"),
        (HeatmapSpec, {"chanels": 8}, "not permitted"),
        (DetectorSpec, {"softmax_kernel": 4}, "must be odd, .* not 4"),
        (DetectorSpec, {"softmax_maximum": "globl"}, "'global' or 'local'"),
        (DetectorSpec, {"nms_kernel": 2}, "odd number"),
        (DetectorSpec, {"offset_kernel": 2}, "odd number"),
        (DetectorSpec, {"offset_kernel": -1}, "greater than or equal to 1"),
        (DetectorSpec, {"target_sigma": 0}, "offset_kernel must be 1 for target_sigma 0"),
        (DetectorSpec, {"offset_weight": 0}, "offset_kernel must be 1"),
        (DetectorSpec, {"networks": "official_features", "stride": 1}, "offset_kernel must be 1"),
        (DetectorSpec, {"target_sigma": float("nan")}, "finite number"),
        (ClassifierSpec, {"networks": "official"}, "patches of 32 px, not 20"),
        (ClassifierSpec, {"patch_size": -3}, "greater than or equal to 1"),
        (EncoderSpec, {"networks": "features"}, "'compact' or 'official'"),
        (EncoderSpec, {"networks": "official"}, "patches of 32 px, not 24"),
        (
            EncoderSpec,
            {"networks": "official", "patch_size": 32, "width": 8, "latents": 64},
            "so 128, not 64",
        ),
        (AutoencoderSpec, {"extent": 24}, "patch_size - 1: got 24 px for 24 samples"),
        (KeypointSpec, {"decay": True, "clip": None}, "decay needs a clip"),
        (KeypointSpec, {"steps": 2}, "order joint makes 1 step, not 2"),
        (KeypointSpec, {"lr": -1}, "greater than or equal to 0"),
        (KeypointSpec, {"clip": 0}, "greater than 0"),
        (KeypointSpec, {"decay": "no"}, "valid boolean"),
        (KeypointSpec, {"order": "eta_first"}, "'joint', 'x_tau_eta' or 'tau_x_eta'"),
        (AdamSpec, {"betas": (0.9,)}, "Field required"),
        (AdamPairSpec, {"betas": (0.9, 1.0)}, "less than 1"),
        (OfficialSpec, {"border": "yes"}, "valid boolean"),
    ],
)
def test_what_a_group_refuses(spec, values, words):
    with pytest.raises(ValidationError, match=words):
        spec(**values)


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        (DetectorSpec, {"softmax_kernel": 15}),
        (DetectorSpec, {"target_sigma": 0, "offset_weight": 0, "offset_kernel": 1}),
        (DetectorSpec, {"networks": "official_features", "stride": 1, "offset_kernel": 1}),
        (ClassifierSpec, {"networks": "official", "patch_size": 32, "window": 0}),
        (ClassifierSpec, {"networks": "official_features"}),  # patches of any size
        (EncoderSpec, {"networks": "official", "patch_size": 32, "width": 8, "latents": 128}),
        (AutoencoderSpec, {"extent": 24, "whole_pixels": False}),
        (KeypointSpec, {"clip": None}),
        (KeypointSpec, {"order": "x_tau_eta", "steps": 2}),
    ],
)
def test_what_a_group_takes(spec, values):
    assert not refused(spec, **values)


@pytest.mark.parametrize("networks", get_args(Networks))
def test_networks_of_all_kinds_have_a_stride_of_their_own(networks):
    fits = [s for s in (1, 2, 4) if not refused(HeatmapSpec, networks=networks, stride=s)]
    assert fits == ([2, 4] if networks == "compact" else [1])


def refused(spec, **values):
    try:
        spec(**values)
    except ValidationError:
        return True
    return False


@pytest.mark.parametrize(
    "scales", ["[]", "[1, 0.5]", "[0.5, 0.5]", "[0, 1]", "[-1]", "[1, NaN]", "1", '"12"', '["1"]']
)
def test_scales_are_a_list_of_positive_numbers_that_rise(scales):
    adapter = TypeAdapter(Scales)
    assert adapter.validate_json("[0.5, 1]", strict=True) == (0.5, 1.0)
    with pytest.raises(ValidationError):
        adapter.validate_json(scales, strict=True)


def test_groups_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        HeatmapSpec().channels = 3
