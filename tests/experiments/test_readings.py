"""What `gibbs_limit` and `sample_information` read out of a table whose answer is known."""

import numpy as np
import pytest

import iw_jax as iw
from experiments import gibbs_limit, sample_information

BETAS = (0.5, 1.0, 2.0)


def gibbs_table(**excess):
    """C* = 10 + 3β known to ±0.1, KL 3, and codes that far above it, known to ±0.2."""
    rows = []
    for kind in gibbs_limit.KINDS:
        for code, more in {"gibbs": 0.0, **excess}.items():
            error = 0.1 if code == "gibbs" else 0.2
            for beta, own in zip(BETAS, np.broadcast_to(more, len(BETAS)), strict=True):
                cost = 10 + 3 * beta + own
                row = {"labels": kind, "code": code, "beta": beta, "mixed": 1, "rhat": 1.0}
                for name, value in (("lagrangian", cost), ("kl", 3.0)):
                    ends = {"": value, "lower_": value - error, "upper_": value + error}
                    row |= {f"{name}_{end}nats": x for end, x in ends.items()}
                rows.append(row)
    return rows


def failed(rows):
    return {
        c.name: c.message for c in gibbs_limit.check(rows, gibbs_limit.Config()) if not c.passed
    }


def test_families_that_lie_within_one_another_pass():
    assert not failed(gibbs_table(isotropic=3.0, diagonal=2.0, low_rank=2.1, log_normal=9.0))


def test_a_larger_family_above_a_smaller_one_is_named():
    rows = gibbs_table(isotropic=3.0, diagonal=2.0, low_rank=[2.0, 2.7, 2.0], log_normal=9.0)
    ((name, message),) = failed(rows).items()
    assert name == "no code has a higher C than one of a family within its own"
    assert message.count("low_rank above diagonal, beta 1") == 2  # real labels and random ones
    assert "isotropic" not in message


def test_a_code_below_the_gibbs_code_is_named():
    (name,) = failed(gibbs_table(diagonal=[1.0, -1.0, 1.0]))
    assert name == "no code has a lower C than the Gibbs code"


def test_waste_is_the_excess_over_beta_and_not_below_zero():
    value, lower, upper = gibbs_limit.wasted(gibbs_table(diagonal=0.2), "real", "diagonal")
    np.testing.assert_allclose(value, 0.2 / np.array(BETAS))
    np.testing.assert_allclose(lower, 0, atol=1e-12)
    np.testing.assert_allclose(upper, 0.5 / np.array(BETAS))


def test_the_interval_of_a_kl_ends_at_zero():
    own = iw.Estimate.mean_of(np.array([[0.0], [4.0], [0.0], [8.0]]))
    assert own.interval()[0][0] < 0
    row = gibbs_limit._columns(own, own, own)(0)
    assert row["kl_lower_nats"] == 0 < row["kl_nats"] < row["kl_upper_nats"]
    assert row["lagrangian_lower_nats"] < 0


def test_agreement_is_told_within_each_group():
    """Told apart without a slip, wrong labels ranked backwards, right ones without a slip."""
    nats = np.r_[np.arange(10.0, 20.0), np.arange(1.0, 9.0) / 10, 5.0]
    exact = np.r_[3 * nats[9::-1], 2 * nats[10:18]]

    def arrivals(i):
        values = (exact[i], exact[i], 0.0 if i else 0.1) if i < 18 else ("", "", "")
        return dict(zip(sample_information.RETRAINED, values, strict=True))

    rows = [
        {"given": 1, "true": int(i >= 10), **dict.fromkeys(sample_information.SCORES, own)}
        | {"hessian_nats": 2 * own if i else "", **arrivals(i)}
        for i, own in enumerate(nats)
    ]
    found = sample_information.agreement(rows)
    rho = {name: group["rank_correlation"]["nats"] for name, group in found.items()}
    assert rho["wrong labels"] == pytest.approx([-1] * 3)
    assert rho["right labels"] == pytest.approx([1] * 3)
    assert 0.5 < rho["both"][0] < 1
    assert [found[name]["examples"] for name in found] == [10, 8, 18]
    assert [found[name]["arrived"] for name in found] == [9, 8, 17]
    assert found["right labels"]["retrained_over_nats"] == {
        "nats": pytest.approx([2, 2, 2, 8]),
        "hessian_nats": pytest.approx([1, 1, 1, 8]),
    }
    assert found["wrong labels"]["retrained_over_nats"]["hessian_nats"][-1] == 9
    assert found["wrong labels"]["lead_of_nats"]["loss_nats"] == [0, 0, 0]
