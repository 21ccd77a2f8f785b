//! The server's binary numerics: a sign and base-10000 digits, straight into a scaled integer or into text.
//!
//! Layout (`numeric_send`): digit count, weight of the first digit, sign, display scale, then the digits; all 16 bits,
//! big endian. The value is the sum of `digit[i] * 10000^(weight - i)`.

use super::decode::Bad;

const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xC000;
const INFINITY: u16 = 0xD000;
const NEGATIVE_INFINITY: u16 = 0xF000;

struct Numeric<'a> {
    weight: i32,
    sign: u16,
    display_scale: u16,
    digits: &'a [[u8; 2]],
}

impl<'a> Numeric<'a> {
    #[inline]
    fn read(value: &'a [u8]) -> Result<Self, Bad> {
        let (header, digits) = value.split_first_chunk::<8>().ok_or(Bad::Length)?;
        let field = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let (digits, rest) = digits.as_chunks::<2>();
        if !rest.is_empty() || digits.len() != field(0) as usize {
            return Err(Bad::Length);
        }
        Ok(Self { weight: field(2) as i16 as i32, sign: field(4), display_scale: field(6), digits })
    }

    #[inline]
    fn digit(&self, at: i32) -> u16 {
        usize::try_from(at).ok().and_then(|at| self.digits.get(at)).map_or(0, |d| u16::from_be_bytes(*d))
    }
}

const POWERS: [u64; 19] = {
    let mut powers = [1; 19];
    let mut i = 1;
    while i < powers.len() {
        powers[i] = powers[i - 1] * 10;
        i += 1;
    }
    powers
};

/// The value times `10^scale`. `bound` is `10^precision`: what reaches it does not fit. Digits beyond the scale must be
/// zero, because nothing is rounded.
#[inline]
pub(super) fn decimal(value: &[u8], scale: i32, bound: i128) -> Result<i128, Bad> {
    let numeric = Numeric::read(value)?;
    match numeric.sign {
        0 | NEGATIVE => {}
        NAN => return Err(Bad::NotANumber),
        INFINITY | NEGATIVE_INFINITY => return Err(Bad::Infinite),
        _ => return Err(Bad::Length),
    }
    // Decimal places of the last digit; negative when a part of it lies beyond the scale.
    let last = 4 * (numeric.weight + 1 - numeric.digits.len() as i32) + scale;
    let magnitude = if last >= 0 && 4 * (numeric.weight + 1) + scale <= 18 {
        let mut sum = 0u64;
        for digit in numeric.digits {
            sum = sum * 10_000 + u16::from_be_bytes(*digit) as u64;
        }
        (sum * POWERS[last as usize]) as i128
    } else {
        wide(&numeric, scale)?
    };
    if magnitude >= bound {
        return Err(Bad::Precision);
    }
    Ok(if numeric.sign == NEGATIVE { -magnitude } else { magnitude })
}

fn wide(numeric: &Numeric<'_>, scale: i32) -> Result<i128, Bad> {
    let mut sum = 0i128;
    let mut last = 0;
    for (i, digit) in numeric.digits.iter().enumerate() {
        let digit = u16::from_be_bytes(*digit) as i128;
        last = 4 * (numeric.weight - i as i32) + scale;
        let (shift, digit) = match last {
            0.. => (4, digit),
            // Part of the digit lies beyond the scale: numeric(10,2) sends 0.25 as the digit 2500.
            -3..0 => {
                let beyond = POWERS[-last as usize] as i128;
                if digit % beyond != 0 {
                    return Err(Bad::Scale);
                }
                (4 + last, digit / beyond)
            }
            _ if digit == 0 => continue,
            _ => return Err(Bad::Scale),
        };
        sum = sum
            .checked_mul(POWERS[shift as usize] as i128)
            .and_then(|sum| sum.checked_add(digit))
            .ok_or(Bad::Precision)?;
    }
    for _ in 0..last.max(0) {
        if sum == 0 {
            break;
        }
        sum = sum.checked_mul(10).ok_or(Bad::Precision)?;
    }
    Ok(sum)
}

/// Writes the value as the server prints it, display scale included.
pub(super) fn text(value: &[u8], out: &mut Vec<u8>) -> Result<(), Bad> {
    let numeric = Numeric::read(value)?;
    match numeric.sign {
        0 => {}
        NEGATIVE => out.push(b'-'),
        NAN => {
            out.extend_from_slice(b"NaN");
            return Ok(());
        }
        INFINITY => {
            out.extend_from_slice(b"Infinity");
            return Ok(());
        }
        NEGATIVE_INFINITY => {
            out.extend_from_slice(b"-Infinity");
            return Ok(());
        }
        _ => return Err(Bad::Length),
    }
    if numeric.weight < 0 {
        out.push(b'0');
    } else {
        let mut buffer = itoa::Buffer::new();
        out.extend_from_slice(buffer.format(numeric.digit(0)).as_bytes());
        for at in 1..=numeric.weight {
            out.extend_from_slice(&four(numeric.digit(at)));
        }
    }
    if numeric.display_scale > 0 {
        out.push(b'.');
        let end = out.len() + numeric.display_scale as usize;
        // Zeros that follow the point at once are not sent: their place is before the first digit.
        let mut at = numeric.weight + 1;
        while out.len() < end {
            out.extend_from_slice(&four(numeric.digit(at)));
            at += 1;
        }
        out.truncate(end);
    }
    Ok(())
}

fn four(digit: u16) -> [u8; 4] {
    [digit / 1000, digit / 100 % 10, digit / 10 % 10, digit % 10].map(|d| b'0' + d as u8)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    /// What the server would send for this text, made digit by digit from the text itself.
    pub(crate) fn encode(text: &str) -> Vec<u8> {
        let (sign, digits) = match text.strip_prefix('-') {
            Some(rest) => (NEGATIVE, rest),
            None => (0, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let padded = format!("{}{whole}", "0".repeat((4 - whole.len() % 4) % 4));
        let mut weight = padded.len() as i32 / 4 - 1;
        let all = format!("{padded}{fraction}{}", "0".repeat((4 - fraction.len() % 4) % 4));
        let mut groups: Vec<u16> =
            all.as_bytes().chunks(4).map(|c| std::str::from_utf8(c).unwrap().parse().unwrap()).collect();
        while groups.last() == Some(&0) {
            groups.pop();
        }
        let zeros = groups.iter().take_while(|g| **g == 0).count();
        groups.drain(..zeros);
        weight -= zeros as i32;
        if groups.is_empty() {
            weight = 0;
        }
        let mut out = Vec::new();
        for field in [groups.len() as u16, weight as u16, sign, fraction.len() as u16] {
            out.extend_from_slice(&field.to_be_bytes());
        }
        groups.iter().for_each(|g| out.extend_from_slice(&g.to_be_bytes()));
        out
    }

    fn as_text(value: &[u8]) -> String {
        let mut out = Vec::new();
        text(value, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    const LIMIT: i128 = 10i128.pow(38);

    #[test]
    fn extremes() {
        let nines = "9".repeat(38);
        assert_eq!(decimal(&encode(&nines), 0, LIMIT), Ok(LIMIT - 1));
        let split = format!("-{}.{}", "9".repeat(28), "9".repeat(10));
        assert_eq!(decimal(&encode(&split), 10, LIMIT), Ok(1 - LIMIT));
        let fraction = format!("0.{}", "9".repeat(38));
        assert_eq!(decimal(&encode(&fraction), 38, LIMIT), Ok(LIMIT - 1));
        assert_eq!(decimal(&encode("0.00000001"), 38, LIMIT), Ok(10i128.pow(30)));
        assert_eq!(decimal(&encode("100"), 2, 10i128.pow(5)), Ok(10_000));
        assert_eq!(decimal(&encode("1000"), 2, 10i128.pow(5)), Err(Bad::Precision));
        assert_eq!(decimal(&encode("1.005"), 2, LIMIT), Err(Bad::Scale));
        assert_eq!(decimal(&encode("0.00001"), 2, LIMIT), Err(Bad::Scale));
        assert_eq!(decimal(&encode("1.500"), 1, LIMIT), Ok(15));
        assert_eq!(decimal(&encode(&format!("1{}", "0".repeat(2000))), 0, LIMIT), Err(Bad::Precision));
        assert_eq!(decimal(&[0, 0, 0, 0, 0xC0, 0, 0, 0], 0, LIMIT), Err(Bad::NotANumber));
        assert_eq!(decimal(&[0, 1, 0, 0, 0, 0, 0, 0], 0, LIMIT), Err(Bad::Length));
        assert_eq!(as_text(&[0, 0, 0, 0, 0xC0, 0, 0, 0]), "NaN");
        assert_eq!(as_text(&[0, 0, 0, 0, 0xF0, 0, 0, 0]), "-Infinity");
    }

    proptest! {
        #[test]
        fn text_comes_back(negative: bool, whole in "0|[1-9][0-9]{0,60}", fraction in "[0-9]{0,60}") {
            let number = if fraction.is_empty() { whole } else { format!("{whole}.{fraction}") };
            let zero = number.chars().all(|c| c == '0' || c == '.');
            let number = if negative && !zero { format!("-{number}") } else { number };
            prop_assert_eq!(as_text(&encode(&number)), number);
        }

        #[test]
        fn decimals_are_their_digits(value in -(10i128.pow(38) - 1)..10i128.pow(38), scale in 0usize..=38, drop in 0u32..38) {
            let value = value / 10i128.pow(drop);
            let digits = format!("{:0>width$}", value.unsigned_abs(), width = scale + 1);
            let (whole, fraction) = digits.split_at(digits.len() - scale);
            let sign = if value < 0 { "-" } else { "" };
            let number = if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") };
            prop_assert_eq!(decimal(&encode(&number), scale as i32, LIMIT), Ok(value));
        }
    }
}
