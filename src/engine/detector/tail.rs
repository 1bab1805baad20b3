//! The upper tail of the normal distribution, in logarithms: exact where `1 - cdf` has long become zero.

/// Beyond this many deviations the continued fraction is used; before it, the series.
const FAR: f64 = 3.0;
/// Terms of either; both have converged to the last bit well before.
const TERMS: u32 = 200;

/// log10 of the probability that a standard normal variable exceeds `z`. Finite for every finite `z`; falls as `z`
/// grows. What is not a number counts as no deviation at all.
pub(in crate::engine) fn log10_tail(z: f64) -> f64 {
    ln_tail(if z.is_nan() { 0.0 } else { z.clamp(-1e6, 1e6) }) / std::f64::consts::LN_10
}

/// The deviation that is exceeded with a probability of 10^-`phi`: the inverse of [`log10_tail`]. For 0.31 and more
/// it is above zero; `phi` is taken between 0.31 and 1,000.
pub(in crate::engine) fn deviations(phi: f64) -> f64 {
    let phi = if phi.is_nan() {
        1_000.0
    } else {
        phi.clamp(0.31, 1_000.0)
    };
    // The tail is at most exp(-z²/2) / 2, which bounds the answer from above; the logarithm is concave, so Newton's
    // steps come down to it from there.
    let mut z = (2.0 * std::f64::consts::LN_10 * phi).sqrt();
    for _ in 0..50 {
        let step = (phi + log10_tail(z)) * std::f64::consts::LN_10 * mills(z);
        z += step;
        if step.abs() < 1e-12 {
            break;
        }
    }
    z.max(0.0)
}

fn ln_tail(z: f64) -> f64 {
    if z < -FAR {
        (-ln_tail(-z).exp()).ln_1p()
    } else if z < FAR {
        (0.5 - half_width(z)).ln()
    } else {
        -z * z / 2.0 - 0.5 * std::f64::consts::TAU.ln() + mills(z).ln()
    }
}

/// The tail divided by the density (Mills' ratio).
fn mills(z: f64) -> f64 {
    if z < FAR {
        return (ln_tail(z) + z * z / 2.0 + 0.5 * std::f64::consts::TAU.ln()).exp();
    }
    // 1 / (z + 1 / (z + 2 / (z + 3 / …))), from its end.
    let mut fraction = z;
    for term in (1..TERMS).rev() {
        fraction = z + f64::from(term) / fraction;
    }
    1.0 / fraction
}

/// The probability between zero and `z`: the density times z + z³/3 + z⁵/(3·5) + …
fn half_width(z: f64) -> f64 {
    let (mut sum, mut power) = (z, z);
    for term in 1..TERMS {
        power *= z * z / f64::from(2 * term + 1);
        sum += power;
        if power.abs() < 1e-18 {
            break;
        }
    }
    sum * (-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn close(value: f64, expected: f64, relative: f64) {
        assert!(
            ((value - expected) / expected).abs() < relative,
            "{value} is not {expected}"
        );
    }

    #[test]
    fn it_is_the_tail_of_the_tables() {
        for (z, tail) in [
            (0.0, 0.5),
            (1.0, 0.158_655_253_931_457_05),
            (-1.0, 0.841_344_746_068_542_9),
            (2.999_999, 1.349_902_463_634e-3),
            (3.000_001, 1.349_893_600_182e-3),
            (5.0, 2.866_515_718_791_94e-7),
            (10.0, 7.619_853_024_160_527e-24),
            (-5.0, 1.0 - 2.866_515_718_791_94e-7),
        ] {
            close(10f64.powf(log10_tail(z)), tail, 1e-9);
        }
    }

    #[test]
    fn it_goes_on_where_a_probability_is_zero_in_doubles() {
        // ln Q(z) ~ -z²/2 - ln(z √(2π)) - 1/z² for large z.
        for z in [40.0f64, 100.0, 1_000.0] {
            let expected = -z * z / 2.0 - (z * std::f64::consts::TAU.sqrt()).ln() - 1.0 / (z * z);
            close(log10_tail(z) * std::f64::consts::LN_10, expected, 1e-8);
        }
        assert!(log10_tail(f64::INFINITY).is_finite());
        assert!(log10_tail(f64::NEG_INFINITY).abs() < 1e-300);
        close(log10_tail(f64::NAN), 0.5f64.log10(), 1e-12);
    }

    #[test]
    fn deviations_are_its_inverse() {
        for phi in [0.31, 0.5, 1.0, 2.87, 5.0, 8.0, 16.0, 100.0, 1_000.0] {
            close(-log10_tail(deviations(phi)), phi, 1e-9);
        }
        close(deviations(8.0), 5.612_001_244_174_789, 1e-9);
        assert!(deviations(f64::NAN) >= deviations(1_000.0), "the lenient side");
        assert!(deviations(0.0) >= 0.0);
    }
}
