"""Products in bfloat16: where they are not to be had, an error says so."""

import pytest
import torch

from bayesflow_nn.velocity.autocast import check_bfloat16


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_devices_without_bfloat16_are_refused(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    with pytest.raises(ValueError, match=f"autocast must be False on device '{device}'.*bfloat16"):
        check_bfloat16(torch.device(device))


def test_devices_with_bfloat16_are_not_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    for device in ("cpu", "cuda"):
        check_bfloat16(torch.device(device))
