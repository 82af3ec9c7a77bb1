"""Feature files that differ, and what `compare` says of them."""

from features.load import parse_feature_set

# A size, and a setting that differs, for each scheme of a feature file.
SCHEMES = {
    "full": ("", "dim: 3"),
    "hash": (", rows: 10", ", rows: 11"),
    "unified": (", rows: 10", ", rows: 10, seed: 1"),
    "multihash": (", rows: 10", ", rows: 10, num_hashes: 3"),
    "pq": (", rows: 10", ", rows: 12"),
    "cce": (", rows: 10", ", rows: 10, seed: 2"),
    "dpq": (", rows: 10", ", rows: 10, mode: sx"),
    "mgqe": (", rows: 10", ", rows: 10, frequent_share: 0.2"),
    "qr": (", rows: 10", ", budget: 4kB"),
    "robe": (", rows: 10", ", rows: 10, block: 4"),
    "hashednet": (", rows: 10", ", rows: 10, seed: 3"),
    "tt": (", rows: 10", ", rows: 11"),
    "dhe": (", rows: 10", ", rows: 10, num_layers: 2"),
    "mixed_dim": (", rows: 10", ", rows: 11"),
    "quantized": ("", ", bits: 16"),
    "dedup": (", rows: 10", ", rows: 10, block_rows: 2"),
    "merged": (", plan: a.safetensors", ", plan: b.safetensors"),
    "deeplight": (", rows: 10", ", rows: 11"),
    "pep": (", rows: 10", ", rows: 11"),
    "autosrh": (", rows: 10", ", rows: 11"),
    "masked": (", plan: a.safetensors", ", plan: b.safetensors"),
    "optembed": ("", ", alpha: 0.1"),
    "pruned": (", plan: a.safetensors", ", plan: b.safetensors"),
}
A = "name: a, kind: categorical, table: t"


def file(*features, top=""):
    lines = "\n".join(f"  - {{{feature}}}" for feature in features)
    return parse_feature_set(f"sources: {{events: e}}\n{top}\nfeatures:\n{lines}\n", name="f")


def in_table(scheme, size, *features):
    size = f", {size}" if size and not size.startswith(",") else size
    return file(*features, top=f"tables: {{t: {{scheme: {scheme}{size}}}}}")


def fates(difference, what="table"):
    return {change.name: change.fate for change in difference.of(what)}
