"""Which device: what was asked for, or an error that says what to do."""

from __future__ import annotations

import pytest
import torch

from pipeline.device import check_decode_device, choose_device, is_made_for_bf16, mixed_precision
from pipeline.errors import InputError


def test_cuda_where_there_is_none_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == "cpu"
    with pytest.raises(InputError, match=r"no CUDA device here; use --device cpu or auto"):
        choose_device("cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_decoder_that_is_not_there_is_told_with_the_remedy() -> None:
    check_decode_device("cpu")
    with pytest.raises(InputError, match=r"no decoder of an NVIDIA GPU here \(.+\); use --decode-device cpu"):
        check_decode_device("cuda")


def test_auto_takes_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == choose_device("cuda") == "cuda"
    assert choose_device("cpu") == "cpu"


@pytest.mark.parametrize("has_amx", [True, False])
def test_of_cpus_those_with_amx_are_made_for_bfloat16(monkeypatch: pytest.MonkeyPatch, has_amx: bool) -> None:
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True, "amx_bf16": has_amx}, raising=False
    )
    assert is_made_for_bf16("cpu") == has_amx
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not is_made_for_bf16("cpu")


def test_float16_needs_a_gpu() -> None:
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        mixed_precision("fp16", "cpu")
    assert mixed_precision("none", "cpu") == "no"
    assert mixed_precision("bf16", "cpu") == "bf16"
