import forked
import pytest

from recsys.search import grid, stages


@pytest.fixture(scope="package", autouse=True)
def quick_starts():
    """Trainings are processes that are forked; those of a search that is killed are real ones."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (grid, stages):
            patch.setattr(module, "subprocess", forked)
        yield
