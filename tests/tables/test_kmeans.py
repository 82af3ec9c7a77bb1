import numpy as np
import pytest
import torch

from recsys.tables import kmeans
from recsys.tables.kmeans import MAX_ROUNDS, POINTS_PER_CENTROID, k_means, means, nearest


def points(num=300, dim=3, seed=0):
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("at_once", [1 << 24, 50])
def test_nearest_is_that_of_all_distances_and_the_first_of_equals(at_once, monkeypatch):
    monkeypatch.setattr(kmeans, "_DISTANCES_AT_ONCE", at_once)
    centroids = torch.cat([points(20, seed=1), points(20, seed=1)])
    every = ((points()[:, None] - centroids[None]) ** 2).sum(2)
    assert nearest(points(), centroids).tolist() == every[:, :20].argmin(1).tolist()


def test_means_by_a_loop_and_zeros_where_there_is_nothing():
    labels = torch.randint(0, 7, (300,), generator=torch.Generator().manual_seed(0))
    labels[labels == 4] = 5
    found, counts = means(points(), labels, 8)
    for label in range(8):
        of_label = points()[labels == label]
        assert counts[label] == len(of_label)
        expected = of_label.double().mean(0) if len(of_label) else torch.zeros(3).double()
        torch.testing.assert_close(found[label].double(), expected, atol=1e-6, rtol=0)
    assert not found[[4, 7]].any()


def test_rounds_are_those_of_lloyd():
    """By plain loops, from the points that the seed draws."""
    values = points(80).double()
    start = torch.randperm(80, generator=torch.Generator().manual_seed(3))[:6]
    centroids = values[start].numpy()
    for _ in range(MAX_ROUNDS):
        labels = [int(np.argmin([((p - c) ** 2).sum() for c in centroids])) for p in values.numpy()]
        assert set(labels) == set(range(6)), "none is lost"
        new = [values.numpy()[np.array(labels) == label].mean(0) for label in range(6)]
        if np.allclose(new, centroids, atol=1e-12):
            break
        centroids = np.stack(new)
    found, found_labels = k_means(values, 6, seed=3)
    np.testing.assert_allclose(found.numpy(), centroids, atol=1e-9)
    assert found_labels.tolist() == labels


def test_no_centroid_is_lost_to_equal_points():
    values = torch.cat([torch.zeros(50, 2), points(50, 2) + 9, points(50, 2) - 9])
    for seed in range(5):
        centroids, labels = k_means(values, 30, seed=seed)
        assert len(labels.unique()) == 30
        assert len(centroids) == 30
        assert (labels[:50] == labels[0]).all()


@pytest.mark.parametrize("num", [1, 5])
def test_fewer_points_than_centroids_are_their_own(num):
    centroids, labels = k_means(points(num), 8, seed=0)
    assert len(centroids) == num
    assert torch.equal(centroids[labels], points(num))


def test_many_points_are_clustered_by_a_sample_and_one_seed_gives_one_result():
    values = points(4 * POINTS_PER_CENTROID)
    centroids, labels = k_means(values, 2, seed=1)
    again, same = k_means(values, 2, seed=1)
    assert torch.equal(centroids, again)
    assert torch.equal(labels, same)
    assert torch.equal(labels, nearest(values, centroids))
    assert not torch.equal(k_means(values, 2, seed=2)[0], centroids)
