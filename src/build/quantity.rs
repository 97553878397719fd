//! Amounts as Kubernetes writes them (512Mi, 1.5G, 500m, 1e3), as numbers that can be compared. Pure.

/// The amount in thousandths, rounded up as Kubernetes does. None when the text is no quantity or too large.
///
/// Grammar: `k8s.io/apimachinery/pkg/api/resource` (`Quantity`): a decimal number and a suffix, binary (Ki … Ei), decimal
/// (n, u, m, none, k … E) or an exponent of ten (e3, E3).
pub fn milli(text: &str) -> Option<i128> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || "+-.".contains(c))).unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(end)?;
    let negative = number.starts_with('-');
    let number = number.strip_prefix(['+', '-']).unwrap_or(number);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok().filter(|d| *d >= 0)?;
    let (multiplier, power) = scale(suffix)?;
    let power = power.checked_add(3)?.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let scaled = digits.checked_mul(multiplier)?;
    let ten = |p: i32| 10_i128.checked_pow(p.unsigned_abs());
    let value = if power >= 0 { scaled.checked_mul(ten(power)?)? } else { div_ceil(scaled, ten(power)?) };
    Some(if negative { -value } else { value })
}

/// Whole units of the amount, such as bytes; rounded down, 0 for negative ones.
pub fn whole(text: &str) -> Option<u64> {
    milli(text).map(|m| u64::try_from(m / 1000).unwrap_or_default())
}

fn div_ceil(a: i128, b: i128) -> i128 {
    a / b + i128::from(a % b != 0)
}

/// What a suffix multiplies by: a factor and a power of ten.
fn scale(suffix: &str) -> Option<(i128, i32)> {
    let binary = |shift: u32| (1_i128 << shift, 0);
    Some(match suffix {
        "" => (1, 0),
        "n" => (1, -9),
        "u" => (1, -6),
        "m" => (1, -3),
        "k" => (1, 3),
        "M" => (1, 6),
        "G" => (1, 9),
        "T" => (1, 12),
        "P" => (1, 15),
        "E" => (1, 18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => (1, suffix.strip_prefix(['e', 'E'])?.parse().ok().filter(|p: &i32| p.abs() <= 30)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_kubernetes_reads_them() {
        for (text, wanted) in [
            ("0", Some(0)),
            ("1", Some(1000)),
            ("500m", Some(500)),
            ("1.5", Some(1500)),
            (".5", Some(500)),
            ("1k", Some(1_000_000)),
            ("1Ki", Some(1_024_000)),
            ("512Mi", Some(536_870_912_000)),
            ("0.5Gi", Some(536_870_912_000)),
            ("1e3", Some(1_000_000)),
            ("1E3", Some(1_000_000)),
            ("1E", Some(1_000_000_000_000_000_000_000)),
            ("1n", Some(1)),
            ("-1", Some(-1000)),
            ("", None),
            ("Mi", None),
            ("1MiB", None),
            ("1 Gi", None),
            ("--1", None),
            ("1.2.3", None),
            ("999999999999999999999999999999999999999999", None),
        ] {
            assert_eq!(milli(text), wanted, "{text}");
        }
        assert_eq!(whole("32Mi"), Some(33_554_432));
        assert_eq!(whole("1500m"), Some(1));
    }
}
