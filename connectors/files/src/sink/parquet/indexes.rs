//! Positions in a dictionary, and levels, as Parquet's hybrid of runs and packed bits.

/// A run is worth its own header from so many values, which are also packed together.
const GROUP: usize = 8;

/// Bits that hold the positions of so many values; at least one, which every reader knows.
pub(super) fn width(values: usize) -> u32 {
    (usize::BITS - values.saturating_sub(1).leading_zeros()).max(1)
}

/// Adds values of up to 32 bits: groups that are one value as runs, what lies between them packed.
pub(super) fn encode(values: &[u32], width: u32, into: &mut Vec<u8>) {
    let (mut begin, mut at) = (0, 0);
    while at < values.len() {
        let first = values[at];
        let is_run = values.len() - at >= GROUP && values[at..at + GROUP].iter().all(|value| *value == first);
        if !is_run {
            at = (at + GROUP).min(values.len());
            continue;
        }
        let more = values[at + GROUP..].iter().take_while(|value| **value == first).count();
        packed(&values[begin..at], width, into);
        varint((GROUP + more) << 1, into);
        into.extend_from_slice(&first.to_le_bytes()[..width.div_ceil(8) as usize]);
        at += GROUP + more;
        begin = at;
    }
    packed(&values[begin..], width, into);
}

/// Whole groups, the last one filled up with zeros: a reader knows how many values there are.
fn packed(values: &[u32], width: u32, into: &mut Vec<u8>) {
    if values.is_empty() {
        return;
    }
    let groups = values.len().div_ceil(GROUP);
    varint(groups << 1 | 1, into);
    let end = into.len() + groups * width as usize;
    let (mut bits, mut held) = (0_u64, 0);
    for value in values {
        bits |= u64::from(*value) << held;
        held += width;
        if held >= 32 {
            into.extend_from_slice(&(bits as u32).to_le_bytes());
            bits >>= 32;
            held -= 32;
        }
    }
    into.extend_from_slice(&bits.to_le_bytes()[..held.div_ceil(8) as usize]);
    into.resize(end, 0);
}

fn varint(mut value: usize, into: &mut Vec<u8>) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads what was written, a bit at a time.
    fn decode(mut bytes: &[u8], width: u32, count: usize) -> Vec<u32> {
        let mut values = Vec::new();
        while values.len() < count {
            let (mut head, mut shift) = (0_usize, 0);
            loop {
                let byte = bytes[0];
                bytes = &bytes[1..];
                head |= usize::from(byte & 0x7f) << shift;
                shift += 7;
                if byte < 0x80 {
                    break;
                }
            }
            if head & 1 == 0 {
                let size = width.div_ceil(8) as usize;
                let mut value = [0; 4];
                value[..size].copy_from_slice(&bytes[..size]);
                bytes = &bytes[size..];
                values.extend(std::iter::repeat_n(u32::from_le_bytes(value), head >> 1));
            } else {
                let size = (head >> 1) * width as usize;
                for i in 0..(head >> 1) * GROUP {
                    let bit = |b: usize| u32::from(bytes[b / 8] >> (b % 8) & 1);
                    values.push((0..width as usize).map(|b| bit(i * width as usize + b) << b).sum());
                }
                bytes = &bytes[size..];
            }
        }
        assert!(bytes.is_empty(), "{} bytes too many", bytes.len());
        values.truncate(count);
        values
    }

    #[test]
    fn what_is_encoded_is_read_back() {
        for bits in 1..=32 {
            let mask = u32::MAX >> (32 - bits);
            for count in [0, 1, 7, 8, 9, 31, 64, 1000] {
                let scattered: Vec<u32> =
                    (0..count as u32).map(|i| i.wrapping_mul(0x9E37_79B9).rotate_left(7) & mask).collect();
                let runs: Vec<u32> = (0..count as u32).map(|i| (i / 13 * 7) & mask).collect();
                let mixed: Vec<u32> = (0..count).map(|i| if i / 40 % 2 == 0 { mask } else { scattered[i] }).collect();
                for values in [scattered, runs, mixed, vec![mask; count], vec![0; count]] {
                    let mut bytes = Vec::new();
                    encode(&values, bits, &mut bytes);
                    assert_eq!(decode(&bytes, bits, count), values, "{bits} bits, {count} values");
                }
            }
        }
    }

    #[test]
    fn runs_take_a_header_and_a_value() {
        let mut bytes = Vec::new();
        encode(&[5; 100], 3, &mut bytes);
        assert_eq!(bytes, [200, 1, 5]);
        assert_eq!([width(0), width(1), width(2), width(3), width(256), width(257)], [1, 1, 1, 2, 8, 9]);
    }
}
