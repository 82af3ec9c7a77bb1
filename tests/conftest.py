import os

import pytest
import torch


def pytest_collection_modifyitems(items):
    """Leave out what this machine cannot run, with the reason."""
    lacking = {
        "data": None if os.environ.get("RECSYS_DATA") else "RECSYS_DATA is not set",
        "gpu": None if torch.cuda.is_available() else "there is no GPU",
    }
    for item in items:
        for marker, reason in lacking.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def generations(tmp_path_factory):
    """Runs and bundles of two generations of sequence models; nobody changes them."""
    from upgrades import two_generations  # which imports all that trains

    return two_generations(tmp_path_factory.mktemp("generations"))


@pytest.fixture(autouse=True)
def _no_address_left():
    """Lightning leaves the address of its process group, which child processes would take."""
    yield
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
