from pathlib import Path

import pytest

from tests.encoders.published import cut_merges, sd3_folder, whole_merges


@pytest.fixture(scope="session", params=["cut", pytest.param("whole", marks=pytest.mark.slow)])
def sd3(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny random weights of SD3's frozen networks, in its folder's layout, with a part or all of CLIP's vocabulary."""
    merges = cut_merges() if request.param == "cut" else whole_merges()
    return sd3_folder(tmp_path_factory.mktemp("sd3"), merges)
