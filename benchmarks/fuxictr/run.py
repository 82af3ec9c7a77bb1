"""FuxiCTR's side of `training_speed.py`: trains one model, then predicts.

Run by the Python of FuxiCTR's own environment (requirements.txt beside this file), which knows
nothing of this project:

    python run.py --settings settings.json --data DIRECTORY --out DIRECTORY

The folder of the data has train.npz and val.npz with encoded ids. FuxiCTR's package has the layers
of its models and what trains them, but no models: they are put together here as in its model zoo.
`report.json` is written to the other directory.
"""

import argparse
import json
import time
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from typing import Any

import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.layers import (
    CrossNetV2,
    FactorizationMachine,
    FeatureEmbedding,
    InnerProductInteraction,
    MLP_Block,
)
from fuxictr.pytorch.models import BaseModel
from fuxictr.pytorch.torch_utils import seed_everything
from torch import Tensor, nn


class Timed(BaseModel):
    """Keeps the second at which each step has ended, and stops after some."""

    def __init__(self, feature_map: FeatureMap, *, settings: dict[str, Any], root: Path) -> None:
        super().__init__(
            feature_map,
            model_id=settings["model"],
            model_root=str(root),
            metrics=["AUC"],
            verbose=0,
        )
        self.embedding_layer = FeatureEmbedding(feature_map, settings["width"])
        self.ended_s: list[float] = []
        self.max_s, self.min_steps = settings["seconds"], settings["min_steps"]

    def train_step(self, batch_data: dict[str, Tensor]) -> Tensor:
        """One step."""
        loss = super().train_step(batch_data)
        self.ended_s.append(time.perf_counter())
        is_late = self.ended_s[-1] - self.ended_s[0] > self.max_s
        self._stop_training = is_late and len(self.ended_s) >= self.min_steps
        return loss

    def eval_step(self) -> None:
        """Nothing: only training is measured."""

    def ready(self, lr: float) -> None:
        """As the models of the zoo do last."""
        self.compile("adam", "binary_crossentropy", lr)
        self.reset_parameters()
        self.model_to_device()

    def probability(self, logits_B1: Tensor) -> dict[str, Tensor]:
        """What `forward` gives."""
        return {"y_pred": self.output_activation(logits_B1)}


class DCNv2(Timed):
    """As model_zoo/DCNv2 with structure `parallel`."""

    def __init__(self, feature_map: FeatureMap, *, settings: dict[str, Any], root: Path) -> None:
        super().__init__(feature_map, settings=settings, root=root)
        width = feature_map.sum_emb_out_dim()
        self.crossnet = CrossNetV2(width, settings["num_cross_layers"])
        self.parallel_dnn = MLP_Block(width, hidden_units=settings["mlp"])
        self.fc = nn.Linear(width + settings["mlp"][-1], 1)
        self.ready(settings["lr"])

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Give probabilities."""
        flat_BC = self.embedding_layer(self.get_inputs(inputs), flatten_emb=True)
        both = torch.cat([self.crossnet(flat_BC), self.parallel_dnn(flat_BC)], dim=-1)
        return self.probability(self.fc(both))


class DeepFM(Timed):
    """As model_zoo/DeepFM."""

    def __init__(self, feature_map: FeatureMap, *, settings: dict[str, Any], root: Path) -> None:
        super().__init__(feature_map, settings=settings, root=root)
        self.fm = FactorizationMachine(feature_map)
        width = feature_map.sum_emb_out_dim()
        self.mlp = MLP_Block(width, hidden_units=settings["mlp"], output_dim=1)
        self.ready(settings["lr"])

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Give probabilities."""
        read = self.get_inputs(inputs)
        vectors_BFD = self.embedding_layer(read)
        return self.probability(self.fm(read, vectors_BFD) + self.mlp(vectors_BFD.flatten(1)))


class DLRM(Timed):
    """As model_zoo/DLRM with dot products, without dense features."""

    def __init__(self, feature_map: FeatureMap, *, settings: dict[str, Any], root: Path) -> None:
        super().__init__(feature_map, settings=settings, root=root)
        num_fields = feature_map.num_fields
        self.interact = InnerProductInteraction(num_fields, output="inner_product")
        num_dots = num_fields * (num_fields - 1) // 2
        self.top_mlp = MLP_Block(num_dots, hidden_units=settings["mlp"], output_dim=1)
        self.ready(settings["lr"])

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Give probabilities."""
        vectors_BFD = self.embedding_layer(self.get_inputs(inputs))
        return self.probability(self.top_mlp(self.interact(vectors_BFD)))


MODELS = {"DCNv2": DCNv2, "DeepFM": DeepFM, "DLRM": DLRM}


def feature_map_of(settings: dict[str, Any]) -> FeatureMap:
    """A field of ids per feature."""
    found = FeatureMap("clicks", "")
    size = settings["rows"] // settings["num_fields"]
    for number in range(settings["num_fields"]):
        # No index is padding: 0 is an id like any other.
        spec = {"type": "categorical", "source": "", "vocab_size": size, "padding_idx": None}
        found.features[f"f{number}"] = spec
    found.labels = ["click"]
    found.default_emb_dim = settings["width"]
    found.num_fields = settings["num_fields"]
    found.set_column_index()
    return found


def main() -> None:
    """Train, predict, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    settings = json.loads(options.settings.read_text())
    torch.set_num_threads(settings["threads"])
    seed_everything(settings["seed"])
    feature_map = feature_map_of(settings)
    model = MODELS[settings["model"]](feature_map, settings=settings, root=options.out)
    # As in FuxiCTR's own configurations, but with rows in memory and no worker processes, which
    # would take the two cores from training.
    loading = {"batch_size": settings["batch_size"], "num_workers": settings["num_workers"]}
    train, _ = RankDataLoader(
        feature_map, "train", train_data=str(options.data / "train.npz"), shuffle=True, **loading
    )
    model._max_gradient_norm, model._total_steps, model._eval_steps = 10.0, 0, 1 << 40
    model._stop_training = False
    while not model._stop_training:  # `fit` less its checkpoint, which nothing has written
        model.train_epoch(train)
    loading["batch_size"] = settings["predict_batch_size"]
    test = RankDataLoader(
        feature_map, "test", test_data=str(options.data / "val.npz"), shuffle=False, **loading
    )
    trained_bytes = getrusage(RUSAGE_SELF).ru_maxrss * 1024
    passes = []
    for _ in range(settings["passes"]):
        started_s = time.perf_counter()
        num_rows = len(model.predict(test))
        passes.append(num_rows / (time.perf_counter() - started_s))
    report = {
        "ended_s": model.ended_s,
        "peak_bytes": trained_bytes + getrusage(RUSAGE_CHILDREN).ru_maxrss * 1024,
        "num_dense": sum(p.numel() for n, p in model.named_parameters() if "embedding" not in n),
        "num_threads": torch.get_num_threads(),
        "rows_per_s": passes,
    }
    (options.out / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()
