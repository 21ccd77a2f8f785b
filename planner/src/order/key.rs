//! From the text of a value to bytes that sort as the values do. Signs are biased and numbers big-endian; what varies in
//! length comes last, or is ended by a byte that keeps a prefix before what it is the beginning of.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::ValueOrder;

/// Appends the key of `text`. False: the text is no value of this order, and `out` is not to be used.
pub(super) fn write(order: &ValueOrder, text: &str, out: &mut Vec<u8>) -> bool {
    let written = match order {
        ValueOrder::Arrow => {
            out.extend_from_slice(text.as_bytes());
            Some(())
        }
        ValueOrder::Padded => {
            out.extend_from_slice(text.trim_end_matches(' ').as_bytes());
            Some(())
        }
        ValueOrder::Labels(labels) => labels.iter().position(|label| label == text).map(|position| {
            out.extend_from_slice(&(position as u32).to_be_bytes());
        }),
        ValueOrder::Numeric => numeric(text, out),
        ValueOrder::Interval => interval(text).map(|key| signed(key, out)),
        ValueOrder::TimeTz => time_tz(text).map(|(moment, zone)| {
            signed(moment, out);
            signed(zone, out);
        }),
        ValueOrder::Money => money(text).map(|key| signed(key, out)),
        ValueOrder::Inet => inet(text, out),
        ValueOrder::Lsn => lsn(text).map(|key| out.extend_from_slice(&key.to_be_bytes())),
    };
    written.is_some()
}

/// A signed number: with its sign bit turned over, its bytes sort as numbers do.
fn signed(value: i128, out: &mut Vec<u8>) {
    out.extend_from_slice(&((value as u128) ^ (1 << 127)).to_be_bytes());
}

/// Sign, exponent and digits without the zeros around them: 1.0 and 1.00 are one number, and have one key.
fn numeric(text: &str, out: &mut Vec<u8>) -> Option<()> {
    match text {
        "-Infinity" => {
            out.push(0);
            return Some(());
        }
        "Infinity" => {
            out.push(4);
            return Some(());
        }
        "NaN" => {
            out.push(5);
            return Some(());
        }
        _ => {}
    }
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = !(whole.is_empty() && fraction.is_empty())
        && whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit());
    if !is_number {
        return None;
    }
    let whole = whole.trim_start_matches('0');
    // How far the first digit that is not zero stands before the point; behind it, the number is negative.
    let (exponent, skipped) = if whole.is_empty() {
        let zeros = fraction.len() - fraction.trim_start_matches('0').len();
        if zeros == fraction.len() {
            out.push(2);
            return Some(());
        }
        (-(zeros as i64), zeros)
    } else {
        (whole.len() as i64, 0)
    };
    out.push(if negative { 1 } else { 3 });
    let begin = out.len();
    out.extend_from_slice(&((exponent as u64) ^ (1 << 63)).to_be_bytes());
    out.extend_from_slice(whole.as_bytes());
    out.extend_from_slice(&fraction.as_bytes()[skipped..]);
    // The first digit is not zero, so this ends there at the latest.
    while out.last() == Some(&b'0') && out.len() > begin + 8 {
        out.pop();
    }
    if negative {
        out[begin..].iter_mut().for_each(|byte| *byte = !*byte);
        // -1.23 lies before -1.2, whose digits are a prefix of its own.
        out.push(0xff);
    }
    Some(())
}

const DAY: i128 = 86_400_000_000;

/// Microseconds: `1 year -2 mons +3 days -04:05:06.789`, as the server compares them.
fn interval(text: &str) -> Option<i128> {
    match text {
        "infinity" => return Some(i128::MAX),
        "-infinity" => return Some(i128::MIN),
        _ => {}
    }
    let mut total = 0;
    let mut words = text.split(' ').peekable();
    words.peek().filter(|word| !word.is_empty())?;
    while let Some(word) = words.next() {
        if word.contains(':') {
            let (negative, clock) = match word.strip_prefix('-') {
                Some(clock) => (true, clock),
                None => (false, word.strip_prefix('+').unwrap_or(word)),
            };
            let micros = clock_micros(clock)?;
            total += if negative { -micros } else { micros };
            continue;
        }
        let number: i128 = word.strip_prefix('+').unwrap_or(word).parse().ok()?;
        total += number
            * match words.next()? {
                "year" | "years" => 360 * DAY,
                "mon" | "mons" => 30 * DAY,
                "day" | "days" => DAY,
                _ => return None,
            };
    }
    Some(total)
}

/// `hh:mm[:ss[.ffffff]]`, with any number of hours.
fn clock_micros(text: &str) -> Option<i128> {
    let mut parts = text.split(':');
    let hours: u64 = parts.next()?.parse().ok()?;
    let minutes: u64 = parts.next()?.parse().ok()?;
    let (seconds, fraction) = match parts.next() {
        None => (0, 0),
        Some(seconds) => match seconds.split_once('.') {
            None => (seconds.parse::<u64>().ok()?, 0),
            Some((seconds, fraction)) if fraction.len() <= 6 => {
                (seconds.parse().ok()?, format!("{fraction:0<6}").parse::<u64>().ok()?)
            }
            Some(_) => return None,
        },
    };
    if parts.next().is_some() || minutes > 59 || seconds > 60 {
        return None;
    }
    let seconds = i128::from(hours) * 3600 + i128::from(minutes) * 60 + i128::from(seconds);
    Some(seconds * 1_000_000 + i128::from(fraction))
}

/// The moment in UTC, then how far west the zone lies.
fn time_tz(text: &str) -> Option<(i128, i128)> {
    let at = text.rfind(['+', '-'])?;
    let (clock, zone) = text.split_at(at);
    let west = if zone.starts_with('-') { 1 } else { -1 };
    let zone = zone.get(1..)?;
    let padded = if zone.contains(':') { zone.to_owned() } else { format!("{zone}:00") };
    let west = west * clock_micros(&padded)?;
    Some((clock_micros(clock)? + west, west))
}

/// All digits, as one whole number. The rest may be a currency, a sign and separators, and nothing else.
fn money(text: &str) -> Option<i128> {
    let mut digits = String::with_capacity(text.len());
    let mut negative = false;
    for c in text.chars() {
        match c {
            '0'..='9' => digits.push(c),
            '-' | '(' | '\u{2212}' => negative = true,
            ')' | '+' | '.' | ',' | '\'' | '\u{2019}' | ' ' | '\u{a0}' | '\u{202f}' | '$' | '\u{a2}'..='\u{a5}' => {}
            '\u{20a0}'..='\u{20cf}' => {}
            c if c.is_alphabetic() => {}
            _ => return None,
        }
    }
    let amount: i128 = digits.parse().ok()?;
    Some(if negative { -amount } else { amount })
}

/// The family, the address with its host part as zeros, the length of the mask, the address.
fn inet(text: &str, out: &mut Vec<u8>) -> Option<()> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse::<u8>().ok()?)),
        None => (text, None),
    };
    let mut push = |family: u8, octets: &[u8]| {
        let most = (octets.len() * 8) as u8;
        let bits = bits.unwrap_or(most);
        if bits > most {
            return None;
        }
        out.push(family);
        out.extend(octets.iter().enumerate().map(|(i, octet)| {
            let kept = usize::from(bits).saturating_sub(i * 8).min(8);
            octet & (0xff00_u16 >> kept) as u8
        }));
        out.push(bits);
        out.extend_from_slice(octets);
        Some(())
    };
    match address.parse::<Ipv4Addr>() {
        Ok(address) => push(4, &address.octets()),
        Err(_) => push(6, &address.parse::<Ipv6Addr>().ok()?.octets()),
    }
}

fn lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let part = |text| u32::from_str_radix(text, 16).ok();
    Some((u64::from(part(high)?) << 32) | u64::from(part(low)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    /// Each text sorts after the one before it; those in one group are equal.
    fn ascending(order: &ValueOrder, groups: &[&[&str]]) {
        let keys: Vec<Vec<Vec<u8>>> = groups
            .iter()
            .map(|group| group.iter().map(|text| order.key(text).unwrap_or_else(|| panic!("{text}"))).collect())
            .collect();
        for (keys, group) in keys.iter().zip(groups) {
            assert!(keys.iter().all(|key| *key == keys[0]), "{group:?}");
        }
        for (i, pair) in keys.windows(2).enumerate() {
            assert!(pair[0][0] < pair[1][0], "{:?} before {:?}", groups[i], groups[i + 1]);
        }
    }

    #[test]
    fn numbers_of_any_length_sort_as_numbers() {
        let huge = format!("1{}", "0".repeat(130_000));
        let tiny = format!("0.{}1", "0".repeat(16_000));
        ascending(
            &ValueOrder::Numeric,
            &[
                &["-Infinity"],
                &[&format!("-{huge}")],
                &["-100"],
                &["-12.5"],
                &["-12", "-12.000", "-012"],
                &["-1.23"],
                &["-1.2"],
                &["-0.05"],
                &[&format!("-{tiny}")],
                &["0", "0.000", "-0", "00.0"],
                &[&tiny],
                &["0.05"],
                &["0.5"],
                &["1.2"],
                &["1.23"],
                &["9"],
                &["10", "10.0"],
                &["10.0001"],
                &["90"],
                &["100"],
                &[&huge],
                &["Infinity"],
                &["NaN"],
            ],
        );
        for wrong in ["", "-", ".", "1e5", "1.2.3", " 1", "+1", "nan"] {
            assert_eq!(ValueOrder::Numeric.key(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn labels_sort_by_their_place_and_padding_does_not_count() {
        ascending(
            &ValueOrder::Labels(vec!["sad".into(), "ok".into(), "happy".into()]),
            &[&["sad"], &["ok"], &["happy"]],
        );
        assert_eq!(ValueOrder::Labels(vec!["sad".into()]).key("gone"), None);
        ascending(&ValueOrder::Padded, &[&["", "  "], &["a", "a   "], &["a\t "], &["ab"]]);
    }

    #[test]
    fn intervals_sort_as_the_server_compares_them() {
        ascending(
            &ValueOrder::Interval,
            &[
                &["-infinity"],
                &["-178000000 years"],
                &["-1 mons +29 days"],
                &["-00:00:00.000001"],
                &["00:00:00"],
                &["00:00:00.5", "00:00:00.500000"],
                &["23:59:59.999999"],
                &["1 day", "24:00:00"],
                &["1 mon", "30 days", "29 days 24:00:00"],
                &["1 year -1 days +25:00:00"],
                &["1 year 2 mons 3 days 04:05:06.789"],
                &["2562047788:00:54.775807"],
                &["infinity"],
            ],
        );
        for wrong in ["", "1", "1 week", "1:2:3:4", "day 1"] {
            assert_eq!(ValueOrder::Interval.key(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn times_with_zone_sort_by_the_moment_and_then_the_zone() {
        ascending(
            &ValueOrder::TimeTz,
            &[
                &["00:00:00+15:59:59"],
                &["12:00:00+02"],
                &["11:00:00+01", "11:00:00+01:00"],
                &["10:00:00+00"],
                &["10:00:00.000001+00"],
                &["24:00:00-15:30"],
            ],
        );
        assert_eq!(ValueOrder::TimeTz.key("12:00"), None);
    }

    #[test]
    fn money_sorts_in_any_spelling_that_is_known() {
        ascending(
            &ValueOrder::Money,
            &[&["-$1,000.00", "($1,000.00)", "$-1000.00"], &["$0.00"], &["$9.99"], &["$10.00"]],
        );
        ascending(&ValueOrder::Money, &[&["-1.000,50 €"], &["0,01 €"], &["2 000,00 Kč"]]);
        assert_eq!(ValueOrder::Money.key("١٢٣"), None);
        assert_eq!(ValueOrder::Money.key("$1*00"), None);
    }

    #[test]
    fn addresses_sort_by_network_mask_and_host() {
        ascending(
            &ValueOrder::Inet,
            &[
                &["0.0.0.0/0"],
                &["9.0.0.0/8"],
                &["10.0.0.0/8"],
                &["10.1.2.3/8"],
                &["10.0.0.0/16"],
                &["10.1.0.0/16"],
                &["10.1.2.3", "10.1.2.3/32"],
                &["192.168.0.1/24"],
                &["::/0"],
                &["::ffff:1.2.3.4/128"],
                &["2001:db8::1/64"],
            ],
        );
        for wrong in ["", "10.1", "10.0.0.0/33", "::/129", "x"] {
            assert_eq!(ValueOrder::Inet.key(wrong), None, "{wrong}");
        }
        ascending(&ValueOrder::Lsn, &[&["0/FFFFFFFF"], &["1/0"], &["16/B374D848"]]);
    }
}
