from lightning.fabric.utilities.data import _set_sampler_epoch

from recsys.data.epochs import EpochLoader


class Recorder:
    """A loader whose batches say which epoch they belong to and which number they have."""

    def __len__(self):
        return 3

    def set_epoch(self, epoch, *, start_batch=0):
        self.epoch, self.start_batch = epoch, start_batch

    def __iter__(self):
        return iter([(self.epoch, number) for number in range(self.start_batch, len(self))])


def test_lightning_moves_it_to_the_next_epoch():
    loader = EpochLoader(Recorder())
    first = iter(loader)  # Lightning makes an iterator before it says which epoch it is for
    _set_sampler_epoch(loader, 4)
    assert list(first) == [(4, 0), (4, 1), (4, 2)]
    _set_sampler_epoch(loader, 5)
    assert list(loader) == [(5, 0), (5, 1), (5, 2)]


def test_it_goes_on_where_a_checkpoint_was_taken():
    loader = EpochLoader(Recorder())
    _set_sampler_epoch(loader, 2)
    batches = iter(loader)
    next(batches)
    resumed = EpochLoader(Recorder())
    resumed.load_state_dict(loader.state_dict())
    _set_sampler_epoch(resumed, 2)
    assert list(resumed) == [(2, 1), (2, 2)]
    _set_sampler_epoch(resumed, 3)
    assert next(iter(resumed)) == (3, 0)
