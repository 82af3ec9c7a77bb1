"""Rankers that look up only what search keeps, against the same rankers on whole histories."""

import pytest
import torch
from gloo import run_processes
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

import models
from features.table_spec import FullTable
from recsys.nn.cutting import KeptEvents, to_kept_events, to_own_histories
from recsys.nn.events import Events
from recsys.tables.config import TablesConfig
from recsys.tables.embedder import Embedder
from recsys.tables.logical import LogicalTable, Reader
from recsys.tables.plan import shard
from recsys.two_stages import embed_kept
from recsys.types import Batch, FieldLayout

MAX_LENGTH, NUM_IDS = 9, 50
SEARCHES = [
    {},
    {"attention": "activation_unit"},
    {"attention": "activation_unit", "search": "same_value"},
    {"search": "sign_codes", "num_bits": 4},
    {"projections": True, "age_width": 3},
    {"ages": False, "auxiliary": False},
]
# Of each example: ids of its item and tags, then those of every earlier event.
ITEMS, TAGS = st.integers(0, NUM_IDS - 1), st.lists(st.integers(0, NUM_IDS - 1), max_size=3)
EVENTS = st.tuples(ITEMS, TAGS)
EXAMPLES = st.tuples(EVENTS, st.lists(EVENTS, max_size=MAX_LENGTH))
BATCHES = st.lists(EXAMPLES, min_size=1, max_size=6)


def keyed(columns):
    """Lists by key, one of each example."""
    return KeyedJaggedTensor(
        keys=list(columns),
        values=torch.tensor([i for lists in columns.values() for one in lists for i in one]).long(),
        lengths=torch.tensor([len(one) for lists in columns.values() for one in lists]),
    )


def batch_of(examples, histories=None):
    """Examples of their own histories, or of shared ones."""
    histories = [events for _, events in examples] if histories is None else histories
    num = len(examples)
    return Batch(
        ids=keyed({"item": [[i] for (i, _), _ in examples], "tags": [t for (_, t), _ in examples]}),
        sequences=keyed(
            {
                "seen.item": [[i for i, _ in events][-2:] for events in histories],
                "past.item": [[i for i, _ in events] for events in histories],
                "past.tags": [[tag for _, tags in events for tag in tags] for events in histories],
                "past.tags.@count": [[len(tags) for _, tags in events] for events in histories],
                "past.@time": [range(len(events) + 1) for events in histories],
            }
        ),
        dense_BN=torch.linspace(-1, 1, num).unsqueeze(1),
        labels_BT=torch.zeros(num, 1),
        weights_B=torch.ones(num),
        users_B=torch.arange(num),
        targets_B=torch.zeros(0, dtype=torch.int64),
        seen_values=torch.zeros(0, dtype=torch.int64),
        seen_lengths_B=torch.zeros(0, dtype=torch.int64),
    )


def are_told_apart(examples):
    """Whether attention tells all events of an example apart that representation does.

    Without ages, events of one item are equally good for a target without tags: which of them are
    kept is then a matter of the last place of their scores.
    """
    return all(tags or len({i for i, _ in events}) == len(events) for (_, tags), events in examples)


def draw(module):
    """Weights that are no first ones, small enough for logits whose last place is below 1e-6."""
    torch.manual_seed(0)
    for values in module.parameters():
        torch.nn.init.normal_(values, std=0.3)


def embedder_of(*, is_sharded=False, is_whole=True):
    """Items with two vectors, and lists of tags with one."""

    def reader(key, position, *, role="", many=False, pooling="mean", of_events="none"):
        ids = "tags" if "tags" in key else "item"
        return Reader(
            key + role, position, ids, NUM_IDS, 1, pooling, many, of_events, key if role else None
        )

    def items(role):
        past = reader("past.item", 2, role=role, many=True, pooling="none")
        seen = reader("seen.item", 4, role=role, many=True)
        return reader("item", 0, role=role), past, seen

    past_tags = reader("past.tags", 3, many=True, pooling="none", of_events="mean")
    tags = (reader("tags", 1, many=True), past_tags)
    tables = [
        LogicalTable("item_attention", 4, FullTable(), items("@attention")),
        LogicalTable("item_representation", 8, FullTable(), items("@representation")),
        LogicalTable("tags", 4, FullTable(), tags),
    ]
    config = TablesConfig(dense_max_bytes=0 if is_sharded else 1 << 30)
    embedder = Embedder(tables, config=config)
    if is_whole:
        embedder.materialize()
        draw(embedder)
    return embedder


def layout_of(embedder):
    widths = {"fields": {}, "sequences": {}}
    for key, reader in embedder.readers.items():
        widths["sequences" if reader.pooling == "none" else "fields"][key] = embedder.widths[key]
    lengths = dict.fromkeys(widths["sequences"], MAX_LENGTH)
    return FieldLayout(**widths, dense={"price": 1}, labels=("click",), max_lengths=lengths)


def ranker_of(embedder, **switches):
    ranker = models.HistoryRanker(layout_of(embedder), top_k=3, mlp=(6,), **switches).eval()
    draw(ranker)
    return ranker


@pytest.mark.parametrize("is_sharded", [False, True])
@pytest.mark.parametrize("switches", SEARCHES, ids=str)
def test_the_logits_are_those_of_whole_histories(switches, is_sharded):
    embedder = embedder_of(is_sharded=is_sharded)
    ranker = ranker_of(embedder, **switches)

    @given(examples=BATCHES, part_events=st.sampled_from([1, 10, 25, 1000]))
    @settings(max_examples=30, deadline=None)
    @torch.no_grad()
    def check(examples, part_events):
        assume(switches.get("ages", True) or are_told_apart(examples))
        batch = batch_of(examples)
        found = ranker(
            embed_kept(
                embedder,
                batch,
                columns=ranker.columns,
                search=ranker.kept,
                part_events=part_events,
            )
        )
        torch.testing.assert_close(found, ranker(embedder(batch)), atol=1e-6, rtol=1e-5)

    check()


def test_rows_of_what_is_not_kept_are_not_looked_up(monkeypatch):
    embedder = embedder_of()
    ranker = ranker_of(embedder)
    generator = torch.Generator().manual_seed(0)

    def event():
        return torch.randint(0, NUM_IDS, (), generator=generator).item(), [1, 2]

    batch = batch_of([(event(), [event() for _ in range(n)]) for n in (9, 0, 2, 7)])
    looked_up = {"attention": [], "representation": []}
    for role, calls in looked_up.items():
        scheme = embedder.schemes[f"item_{role}"]

        def remap(ids, *, calls=calls, role=role, inner=scheme.remap):
            calls.append(len(ids[f"past.item@{role}"]))
            return inner(ids)

        monkeypatch.setattr(scheme, "remap", remap)
    found = embed_kept(embedder, batch, columns=ranker.columns, search=ranker.kept, part_events=18)
    kept = 3 + 0 + 2 + 3
    assert looked_up == {"attention": [9, 2 + 7, kept], "representation": [0, 0, kept]}
    assert found.sequences["past.tags"].lengths_B.tolist() == [3, 0, 2, 3]
    assert found.fields["seen.item@representation"].shape == (4, 8)


def test_lists_of_kept_events_in_the_order_of_time():
    events = [(5, [1]), (6, []), (7, [2, 3]), (8, [4])]
    batch = batch_of([((0, []), events), ((0, []), []), ((0, []), events[:2])])
    found = Events(
        token_BK=torch.tensor([[3, 0, 2], [0, 0, 0], [5, 0, 0]]),
        is_event_BK=torch.tensor([[True, False, True], [False] * 3, [True, False, False]]),
        age_BK=torch.tensor([[1, 4, 2], [1, 1, 1], [1, 2, 3]]),
    )
    kept = KeptEvents.of(found)
    assert kept.age_L.tolist() == [2, 1, 1]
    cut = to_kept_events(batch, kept, columns=["past.item", "past.tags"]).sequences
    lists_of = cut.keys()
    lists = {key: [one.tolist() for one in cut[key].to_dense()] for key in lists_of}
    assert lists == {
        "seen.item": [[7, 8], [], [5, 6]],
        "past.item": [[7, 8], [], [6]],
        "past.tags": [[2, 3, 4], [], []],
        "past.tags.@count": [[2, 1], [], [0]],
    }


# Histories, and examples: a target and the number of its history.
SHARED = st.integers(1, 3).flatmap(
    lambda num: st.tuples(
        st.lists(st.lists(EVENTS, max_size=MAX_LENGTH), min_size=num, max_size=num),
        st.lists(st.tuples(EVENTS, st.integers(0, num - 1)), min_size=num, max_size=8),
    )
)


def shared_and_own(histories, targets):
    """The same examples with each history once, as the collate does, and with one for each."""
    numbers, which = sorted({n for _, n in targets}), [n for _, n in targets]
    once = [histories[n] for n in numbers] + [[]] * (len(targets) - len(numbers))
    batch = batch_of([(target, None) for target, _ in targets], once)
    batch.histories_B = torch.tensor([numbers.index(n) for n in which])
    return batch, batch_of([(target, histories[n]) for target, n in targets])


@pytest.mark.parametrize("is_sharded", [False, True])
@pytest.mark.parametrize("switches", [*SEARCHES, {"search": "none"}], ids=str)
def test_shared_histories_are_as_good_as_own(switches, is_sharded):
    embedder = embedder_of(is_sharded=is_sharded)
    ranker = ranker_of(embedder, **switches)

    @given(SHARED, st.sampled_from([1, 10, 1000]))
    @settings(max_examples=30, deadline=None)
    @torch.no_grad()
    def check(drawn, part_events):
        histories, targets = drawn
        examples = [(target, histories[number]) for target, number in targets]
        assume(switches.get("ages", True) or are_told_apart(examples))
        shared, own = shared_and_own(histories, targets)
        expected = ranker.training_logits(embedder(own))
        found = [ranker.training_logits(embedder(shared))]
        found.append(ranker.training_logits(embedder(to_own_histories(shared))))
        if ranker.max_kept is not None:
            two_stages = embed_kept(
                embedder,
                shared,
                columns=ranker.columns,
                search=ranker.kept,
                part_events=part_events,
            )
            found.append((ranker(two_stages),))
        for logits in found:
            for ours, theirs in zip(logits, expected, strict=False):
                torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)

    check()


def test_gradients_of_shared_histories():
    histories = [[(1, [2]), (3, []), (1, [4, 4])], [(5, [6]), (7, [1])]]
    targets = [((1, [1]), 1), ((2, []), 0), ((3, [2]), 1), ((3, [5]), 1)]
    embedder = embedder_of()
    ranker = ranker_of(embedder).train()
    gradients = []
    for batch in shared_and_own(histories, targets):
        embedder.zero_grad()
        sum(logits.square().sum() for logits in ranker.training_logits(embedder(batch))).backward()
        gradients.append({n: p.grad.clone() for n, p in embedder.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient.abs().sum() > 0
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-4)


class BothWays(torch.nn.Module):
    """Logits of one stage, and of two in parts as small as there are."""

    def __init__(self):
        super().__init__()
        self.embedder = embedder_of(is_sharded=True, is_whole=False)
        self.ranker = ranker_of(self.embedder)

    def forward(self, batch):
        ranker = self.ranker
        two_stages = embed_kept(
            self.embedder, batch, columns=ranker.columns, search=ranker.kept, part_events=1
        )
        return ranker(self.embedder(batch)), ranker(two_stages)


def worst_difference(rank, world_size):
    model = shard(BothWays(), device=torch.device("cpu"))
    event = (3 + rank, [1, 2])
    lengths = [[2], [9, 0, 7, 5]][rank]  # parts of their own would differ in number
    batch = batch_of([(event, [(n, [n]) for n in range(length)]) for length in lengths])
    with torch.no_grad():
        one, two = model(batch)
    difference = (one - two).abs().max()
    torch.distributed.all_reduce(difference, torch.distributed.ReduceOp.MAX)
    return difference.item()


def test_sharded_over_processes(tmp_path):
    assert run_processes(2, worst_difference, tmp_path) < 1e-5
