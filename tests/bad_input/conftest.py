import re
import shutil

import pytest
from commands import experiment, recsys_command, train_command
from spoiling import edit, files
from training.runs import write_inputs

RANKING = {
    "class_path": "RankingTask",
    "init_args": {
        "ranker": {"class_path": "DCNv2", "init_args": {"num_cross_layers": 1, "mlp": [8]}},
        "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01}},
    },
}


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """Data, feature files, and a run called `done` with its bundle."""
    directory = write_inputs(tmp_path_factory.mktemp("bad"))
    file = experiment(directory, RANKING, features="ranking.yaml", name="done")
    assert train_command("fit", "-c", file) == 0
    assert recsys_command("export", directory / "runs/done", "--out", directory / "bundle") == 0
    return directory


@pytest.fixture
def place(inputs, tmp_path):
    """A copy of the inputs to spoil; what has been built of them is shared."""
    shutil.copytree(inputs / "data", tmp_path / "data")
    for name in ("ranking.yaml", "sequence.yaml"):
        shutil.copy(inputs / name, tmp_path / name)
    experiment(tmp_path, RANKING, features="ranking.yaml")
    edit(tmp_path, **{"data.store": str(inputs / "store")})
    return tmp_path


@pytest.fixture
def refused(inputs, place, capfd):
    """Checks that a command is refused with a message that has all the given pieces."""

    def check(command, *arguments, says):
        before = files(place)
        capfd.readouterr()
        assert command(*arguments) == 2
        printed = capfd.readouterr()
        for piece in (says,) if isinstance(says, str) else says:
            assert re.search(piece, printed.err), printed.err
        assert "Traceback" not in printed.err
        assert "usage:" not in printed.err
        assert len(printed.err.splitlines()) <= 4
        assert files(place) == before
        assert not list((inputs / "store").glob("*.unfinished"))

    return check
