//! PostgreSQL's binary numeric: base-10000 digits, made from scaled integers and from decimal text.
//!
//! The wire form is `ndigits, weight, sign, dscale` and the digits, each 16 bits: see `numeric_send` in the server.

use arrow::datatypes::i256;

const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xC000;
const POSITIVE_INFINITY: u16 = 0xD000;
const NEGATIVE_INFINITY: u16 = 0xF000;
/// Groups that hold 76 digits with any alignment of the decimal point, with room.
const MAX_GROUPS: usize = 24;
const E16: u64 = 10_000_000_000_000_000;

/// Groups of four decimal digits, least significant first, on the stack.
struct Groups {
    digits: [u16; MAX_GROUPS],
    len: usize,
}

impl Groups {
    fn push(&mut self, digit: u16) {
        self.digits[self.len] = digit;
        self.len += 1;
    }

    fn push_u64(&mut self, mut value: u64) {
        while value > 0 {
            self.push((value % 10_000) as u16);
            value /= 10_000;
        }
    }

    /// Exactly four groups, zeros included.
    fn push_e16(&mut self, mut value: u64) {
        for _ in 0..4 {
            self.push((value % 10_000) as u16);
            value /= 10_000;
        }
    }
}

/// Splits off the digits of the group that the decimal point cuts: `(modulus, factor)` for a scale.
fn cut(scale: u32) -> (u64, u16) {
    match scale % 4 {
        0 => (1, 1),
        1 => (10, 1000),
        2 => (100, 100),
        _ => (1000, 10),
    }
}

/// Appends length and value of `value * 10^-scale`.
pub(super) fn put_decimal(out: &mut Vec<u8>, value: i128, scale: u8) {
    let scale = u32::from(scale);
    let mut groups = Groups { digits: [0; MAX_GROUPS], len: 0 };
    let (modulus, factor) = cut(scale);
    let mut rest = value.unsigned_abs();
    if let Ok(mut small) = u64::try_from(rest) {
        if modulus > 1 {
            groups.push((small % modulus) as u16 * factor);
            small /= modulus;
        }
        groups.push_u64(small);
    } else {
        if modulus > 1 {
            groups.push((rest % u128::from(modulus)) as u16 * factor);
            rest /= u128::from(modulus);
        }
        while rest > u128::from(u64::MAX) {
            groups.push_e16((rest % u128::from(E16)) as u64);
            rest /= u128::from(E16);
        }
        groups.push_u64(rest as u64);
    }
    finish(out, &groups, value < 0, scale);
}

/// The same for 256 bits.
pub(super) fn put_decimal256(out: &mut Vec<u8>, value: i256, scale: u8) {
    if let Some(small) = value.to_i128() {
        return put_decimal(out, small, scale);
    }
    let scale = u32::from(scale);
    let mut groups = Groups { digits: [0; MAX_GROUPS], len: 0 };
    let (modulus, factor) = cut(scale);
    let split = |value: i256, by: u64| {
        let by = i256::from_i128(i128::from(by));
        // Truncating division: the remainder has the sign of the value.
        (value.wrapping_div(by), value.wrapping_rem(by).to_i128().unwrap_or_default().unsigned_abs() as u64)
    };
    let mut rest = value;
    if modulus > 1 {
        let (quotient, low) = split(rest, modulus);
        groups.push(low as u16 * factor);
        rest = quotient;
    }
    while rest != i256::ZERO {
        let (quotient, low) = split(rest, E16);
        groups.push_e16(low);
        rest = quotient;
    }
    finish(out, &groups, value < i256::ZERO, scale);
}

fn finish(out: &mut Vec<u8>, groups: &Groups, negative: bool, scale: u32) {
    let fraction_groups = scale.div_ceil(4) as usize;
    let mut low = 0;
    let mut high = groups.len;
    while high > 0 && groups.digits[high - 1] == 0 {
        high -= 1;
    }
    while low < high && groups.digits[low] == 0 {
        low += 1;
    }
    let count = high - low;
    let weight = if count == 0 { 0 } else { high as i16 - fraction_groups as i16 - 1 };
    let sign = if negative && count > 0 { NEGATIVE } else { 0 };
    header(out, count, weight, sign, scale as u16);
    for digit in groups.digits[low..high].iter().rev() {
        out.extend_from_slice(&digit.to_be_bytes());
    }
}

fn header(out: &mut Vec<u8>, count: usize, weight: i16, sign: u16, scale: u16) {
    let mut bytes = [0u8; 12];
    bytes[..4].copy_from_slice(&(8 + 2 * count as i32).to_be_bytes());
    bytes[4..6].copy_from_slice(&(count as i16).to_be_bytes());
    bytes[6..8].copy_from_slice(&weight.to_be_bytes());
    bytes[8..10].copy_from_slice(&sign.to_be_bytes());
    bytes[10..12].copy_from_slice(&scale.to_be_bytes());
    out.extend_from_slice(&bytes);
}

/// Whether [`put_text`] reads this text: an optional sign, digits, an optional fraction; or a special value.
pub(super) fn is_plain_decimal(text: &str) -> bool {
    if matches!(text, "NaN" | "Infinity" | "-Infinity") {
        return true;
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text).as_bytes();
    let point = memchr::memchr(b'.', digits).unwrap_or(digits.len());
    let (whole, fraction) = (&digits[..point], digits.get(point + 1..).unwrap_or_default());
    // The server's limits: 131072 digits before the point, 16383 after it.
    whole.len() + fraction.len() > 0
        && whole.len() <= 131_072
        && fraction.len() <= 16_383
        && whole.iter().chain(fraction).all(u8::is_ascii_digit)
}

/// Appends length and value of a decimal that [`is_plain_decimal`] accepted, its scale kept.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    match text {
        "NaN" => return header(out, 0, 0, NAN, 0),
        "Infinity" => return header(out, 0, 0, POSITIVE_INFINITY, 0),
        "-Infinity" => return header(out, 0, 0, NEGATIVE_INFINITY, 0),
        _ => {}
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text).as_bytes();
    let point = memchr::memchr(b'.', digits).unwrap_or(digits.len());
    let fraction = digits.get(point + 1..).unwrap_or_default();
    let zeros = digits[..point].iter().take_while(|d| **d == b'0').count();
    let whole = &digits[zeros..point];
    let whole_groups = whole.len().div_ceil(4);
    let fraction_groups = fraction.len().div_ceil(4);
    let group = |i: usize| -> u16 {
        let mut value = 0;
        for place in 0..4 {
            let digit = if i < whole_groups {
                (i * 4 + place).checked_sub(whole_groups * 4 - whole.len()).map_or(b'0', |at| whole[at])
            } else {
                fraction.get((i - whole_groups) * 4 + place).copied().unwrap_or(b'0')
            };
            value = value * 10 + u16::from(digit - b'0');
        }
        value
    };
    let mut from = 0;
    let mut to = whole_groups + fraction_groups;
    while from < to && group(from) == 0 {
        from += 1;
    }
    while from < to && group(to - 1) == 0 {
        to -= 1;
    }
    let weight = if from == to { 0 } else { (whole_groups as i32 - from as i32 - 1) as i16 };
    let sign = if text.starts_with('-') && from < to { NEGATIVE } else { 0 };
    header(out, to - from, weight, sign, fraction.len() as u16);
    for i in from..to {
        out.extend_from_slice(&group(i).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the wire form back into text, as the server prints it.
    fn show(bytes: &[u8]) -> String {
        let at = |i: usize| i16::from_be_bytes([bytes[i], bytes[i + 1]]);
        assert_eq!(i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize, bytes.len() - 4);
        let (count, weight, sign, scale) = (at(4) as usize, i32::from(at(6)), at(8) as u16, at(10) as usize);
        let digit = |group: i32| {
            let i = weight - group;
            if (0..count as i32).contains(&i) { at(12 + 2 * i as usize) } else { 0 }
        };
        let whole: String = (0..=weight.max(0)).rev().map(|g| format!("{:04}", digit(g))).collect();
        let fraction: String = (1..=scale.div_ceil(4) as i32).map(|g| format!("{:04}", digit(-g))).collect();
        let whole = whole.trim_start_matches('0');
        let mut text = if sign == NEGATIVE { "-".to_owned() } else { String::new() };
        text.push_str(if whole.is_empty() { "0" } else { whole });
        if scale > 0 {
            text.push('.');
            text.push_str(&fraction[..scale]);
        }
        text
    }

    #[test]
    fn integers_and_text_make_the_same_bytes_and_read_back() {
        let max = 99_999_999_999_999_999_999_999_999_999_999_999_999_i128;
        let values = [0, 1, -1, 9, 10, 99, 10_000, 100_000, 123_456_789, -123_456_789, 1 << 63, max, -max, max - 9999];
        for value in values {
            for scale in [0u8, 1, 2, 3, 4, 5, 10, 18, 37, 38] {
                let mut from_int = Vec::new();
                put_decimal(&mut from_int, value, scale);
                let sign = if value < 0 { "-" } else { "" };
                let digits = format!("{:0>width$}", value.unsigned_abs(), width = scale as usize + 1);
                let (whole, fraction) = digits.split_at(digits.len() - scale as usize);
                let text = if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") };
                assert_eq!(show(&from_int), text, "{value} scale {scale}");
                assert!(is_plain_decimal(&text));
                let mut from_text = Vec::new();
                put_text(&mut from_text, &text);
                assert_eq!(from_text, from_int, "{text}");
                let mut wide = Vec::new();
                put_decimal256(&mut wide, i256::from_i128(value), scale);
                assert_eq!(wide, from_int);
            }
        }
    }

    #[test]
    fn wide_decimals_agree_with_their_text() {
        let text = format!("-{}", "1234567890".repeat(7));
        let value: i256 = text.parse().unwrap_or_default();
        assert_ne!(value, i256::ZERO);
        let (mut wide, mut plain) = (Vec::new(), Vec::new());
        put_decimal256(&mut wide, value, 0);
        put_text(&mut plain, &text);
        assert_eq!(wide, plain);
        let mut wide = Vec::new();
        put_decimal256(&mut wide, value, 9);
        assert_eq!(show(&wide), format!("{}.{}", &text[..text.len() - 9], &text[text.len() - 9..]));
    }

    #[test]
    fn what_is_no_plain_decimal_is_refused() {
        for text in ["", "-", ".", "1e5", "abc", "1.2.3", " 1", "1 ", "0x10", "inf"] {
            assert!(!is_plain_decimal(text), "{text:?}");
        }
        for text in ["0", "-0", "+5", ".5", "5.", "0000.0000", "NaN"] {
            assert!(is_plain_decimal(text), "{text:?}");
        }
    }
}
