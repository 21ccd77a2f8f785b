//! Numbers for people.

/// `336,776`
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 row`, `2 rows`
pub(crate) fn rows(n: u64) -> String {
    several(n, "row")
}

/// `1 pipeline`, `2 pipelines`
pub(crate) fn several(n: u64, what: &str) -> String {
    format!("{} {what}{}", count(n), if n == 1 { "" } else { "s" })
}

/// `8.2 MB`, in powers of ten.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if n < 1000 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1000.0;
    let mut unit = 0;
    // 999.95 would print as 1000.0.
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `0.42 s`, `3.2 s`, `2m 05s`, `1h 02m`
pub(crate) fn seconds(seconds: f64) -> String {
    if seconds < 1.0 {
        return format!("{seconds:.2} s");
    }
    if seconds < 59.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    if whole < 3600 {
        format!("{}m {:02}s", whole / 60, whole % 60)
    } else {
        format!("{}h {:02}m", whole / 3600, whole / 60 % 60)
    }
}

/// `48,000 rows/s`; none for nothing, or for a time too short to say.
pub(crate) fn rate(rows: u64, seconds: f64) -> Option<String> {
    (rows > 0 && seconds >= 0.001).then(|| format!("{} rows/s", count((rows as f64 / seconds).round() as u64)))
}

/// `13.1 MB/s`
pub(crate) fn byte_rate(n: u64, seconds: f64) -> Option<String> {
    (n > 0 && seconds >= 0.001).then(|| format!("{}/s", bytes((n as f64 / seconds).round() as u64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_scaled() {
        assert_eq!([0, 999, 1000, 336_776, 1_000_000].map(count), ["0", "999", "1,000", "336,776", "1,000,000"]);
        assert_eq!([0, 999, 1000, 8_200_162, 999_999].map(bytes), ["0 B", "999 B", "1.0 kB", "8.2 MB", "1.0 MB"]);
        assert_eq!(bytes(u64::MAX), "18446.7 PB");
        assert_eq!([0.421, 3.21, 59.96, 125.0, 3725.0].map(seconds), ["0.42 s", "3.2 s", "1m 00s", "2m 05s", "1h 02m"]);
        assert_eq!(rows(1), "1 row");
        assert_eq!(rate(0, 1.0), None);
        assert_eq!(rate(10, 0.0), None);
    }
}
