from pathlib import Path

import pytest

from tests.encoders.published import sd3_folder


@pytest.fixture(scope="session")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny random weights of SD3's frozen networks, in its folder's layout."""
    return sd3_folder(tmp_path_factory.mktemp("sd3"))
