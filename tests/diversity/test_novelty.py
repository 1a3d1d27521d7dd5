"""Generators whose novelty and dispersion are known."""

import pytest
import torch

from bayesflow_nn.diversity import gaussian_baseline, novelty_report, spread

N_COORDINATES = 40


def _networks(n, seed):
    generator = torch.Generator().manual_seed(seed)
    return 3 + torch.randn(n, N_COORDINATES, generator=generator, dtype=torch.float64)


@pytest.fixture
def training():
    return _networks(300, 0)


@pytest.fixture
def held_out():
    return _networks(200, 1)


def test_both_ratios_are_those_of_loops(training, held_out):
    generated, few = _networks(50, 2), held_out[:50]

    def nearest(points):
        return sum(min((x - y).norm().item() for y in training) for x in points) / len(points)

    def spread(points):
        unbiased = (len(points) / (len(points) - 1)) ** 0.5
        return unbiased * sum((x - points.mean(0)).norm().item() for x in points) / len(points)

    report = novelty_report(generated, training, few, chunk_size=7)
    assert report.novelty == pytest.approx(nearest(generated) / nearest(few))
    assert report.dispersion == pytest.approx(spread(generated) / spread(few))


def test_independent_networks_of_the_same_law_score_one(training, held_out):
    # Norms of 40 coordinates vary by 11 %, so a mean of 200 by 0.8 %: 4 % is beyond 3.5 of the
    # standard errors of a ratio.
    report = novelty_report(_networks(200, 2), training, held_out)
    assert report.novelty == pytest.approx(1, abs=0.04)
    assert report.dispersion == pytest.approx(1, abs=0.04)


def test_dispersion_does_not_depend_on_the_size_of_a_set(training, held_out):
    # Without the factor sqrt(n / (n - 1)) two networks of the same law would score 0.71.
    pairs = [novelty_report(_networks(2, seed), training, held_out) for seed in range(10, 60)]
    # 100 norms that vary by 11 %: the mean by about 1.5 %.
    assert sum(p.dispersion for p in pairs) / len(pairs) == pytest.approx(1, abs=0.06)


def test_copies_have_novelty_zero_and_warn(training, held_out):
    with pytest.warns(UserWarning, match="novelty is 0.00, below 0.5: .* nearly copies"):
        report = novelty_report(training[:60], training, held_out)
    assert report.novelty == 0
    assert report.n_distinct_nearest == 60


def test_the_mean_network_is_new_but_not_dispersed_and_warns(training, held_out):
    mean_networks = training.mean(0).expand(10, -1)
    with pytest.warns(UserWarning, match="dispersion is 0.00, below 0.7: .* shrink"):
        report = novelty_report(mean_networks, training, held_out)
    assert report.dispersion == pytest.approx(0, abs=1e-12)
    assert report.novelty > 0.5
    assert report.n_distinct_nearest == 1


@pytest.mark.parametrize("tau", [0.8, 1.0, 1.2])
def test_dispersion_of_a_tempered_gaussian_is_its_temperature(training, held_out, tau):
    generator = torch.Generator().manual_seed(0)
    generated = gaussian_baseline(training, 400, tau=tau, generator=generator)
    report = novelty_report(generated, training, held_out)
    # As above, with another 4 % for the scatter of the 300 networks the Gaussian was fit to.
    assert report.dispersion == pytest.approx(tau, rel=0.05)


def test_a_given_distance_and_centre_are_used(training, held_out):
    def angle(x, y):
        return torch.acos((x * y).sum(-1).clamp(-1, 1))

    def project(x):
        return x / x.norm(dim=-1, keepdim=True)

    training, held_out, generated = map(project, (training, held_out, _networks(50, 2)))
    report = novelty_report(
        generated, training, held_out, distance=angle, centre=lambda x: project(x.mean(0))
    )
    torch.testing.assert_close(
        report.generated_distance, angle(generated[:, None], training).amin(1)
    )
    torch.testing.assert_close(
        report.generated_spread, angle(generated, project(generated.mean(0))) * (50 / 49) ** 0.5
    )


def test_log_density_gap_is_training_minus_held_out(training, held_out):
    generated = _networks(50, 2)
    gap = novelty_report(generated, training, held_out, log_prob=lambda x: x[:, 0]).log_density_gap
    # 200 of the 300 training networks are asked, evenly spaced.
    rows = torch.linspace(0, 299, 200).round().long()
    assert gap == pytest.approx((training[rows, 0].mean() - held_out[:, 0].mean()).item())
    assert novelty_report(generated, training, held_out).log_density_gap is None


def test_a_report_reads_well(training, held_out):
    report = novelty_report(_networks(50, 2), training, held_out, log_prob=lambda x: 0 * x[:, 0])
    lines = str(report).splitlines()
    assert [line.split()[0] for line in lines] == ["novelty", "dispersion", "nearest", "log"]
    assert f"{report.novelty:.3f}" in lines[0]
    assert f"{report.dispersion:.3f}" in lines[1]
    assert f"{report.n_distinct_nearest} distinct" in lines[2]
    assert "0 nats" in lines[3]


def test_float32_agrees_with_float64(training, held_out):
    sets = _networks(50, 2), training, held_out
    single = novelty_report(*(points.float() for points in sets))
    assert single.novelty == pytest.approx(novelty_report(*sets).novelty, rel=1e-6)
    assert single.dispersion == pytest.approx(novelty_report(*sets).dispersion, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"generated": torch.zeros(1, N_COORDINATES)}, "generated .* at least 2 points"),
        ({"generated": torch.zeros(5, 3)}, r"generated must have shape \(n_points, 40\)"),
        ({"generated": torch.full((2, N_COORDINATES), torch.nan)}, "generated must be finite"),
        ({"held_out": torch.zeros(1, N_COORDINATES)}, "held_out .* at least 2 points"),
        ({"held_out": torch.zeros(4, N_COORDINATES)}, "held_out must hold different networks"),
        ({"training": torch.zeros(0, N_COORDINATES)}, "training .* at least 1 points"),
        ({"chunk_size": -1}, "chunk_size must be an integer of at least 1"),
    ],
)
def test_bad_input_is_named(training, held_out, change, match):
    arguments = {"generated": _networks(5, 2), "training": training, "held_out": held_out}
    with pytest.raises(ValueError, match=match):
        novelty_report(**arguments | change)


def test_held_out_networks_that_were_trained_on_are_refused(training):
    with pytest.raises(ValueError, match="held_out must not consist of training networks"):
        novelty_report(_networks(5, 2), training, training[:20])


def test_spread_is_that_around_the_unknown_mean():
    """Squared, its mean over sets of any size is the total variance of the law, here 40."""
    points = torch.randn(4000, 3, N_COORDINATES, generator=torch.Generator().manual_seed(0))
    squares = torch.stack([spread(three).square().mean() for three in points])
    # Four standard errors of a mean over sets; without the factor it would be 40 * 2 / 3.
    assert abs(squares.mean().item() - 40) < 4 * squares.std().item() / len(points) ** 0.5
    with pytest.raises(ValueError, match="points must have shape .* at least 2 points"):
        spread(points[0, :1])
