//! Values of a column and their positions in its dictionary.

/// Numbers that lie so close together are found by their distance from the least that may be.
const NEAR: usize = 1 << 16;
/// Odd, with its bits spread: what Fibonacci hashing multiplies by.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;
const EMPTY: u32 = u32::MAX;

/// Numbers of four or eight bytes.
pub(super) struct Numbers {
    values: Vec<i64>,
    /// What the place 0 of `near` is for.
    base: i64,
    near: Vec<u32>,
    /// Where numbers lie too far apart for `near`: places by hash, at most half of them taken.
    far: Vec<u32>,
}

impl Numbers {
    pub(super) fn new() -> Self {
        Self { values: Vec::new(), base: 0, near: Vec::new(), far: Vec::new() }
    }

    pub(super) fn values(&self) -> &[i64] {
        &self.values
    }

    /// Adds the position of each number; those that are new get the next ones.
    pub(super) fn find(&mut self, numbers: &[i64], positions: &mut Vec<u32>) {
        let Some(first) = numbers.first() else { return };
        if self.near.is_empty() && self.far.is_empty() {
            self.base = first.saturating_sub(NEAR as i64 / 2);
            self.near = vec![EMPTY; NEAR];
        }
        positions.extend(numbers.iter().map(|number| {
            match self.near.get_mut(number.wrapping_sub(self.base) as u64 as usize) {
                Some(place) => {
                    if *place == EMPTY {
                        *place = self.values.len() as u32;
                        self.values.push(*number);
                    }
                    *place
                }
                None => self.find_far(*number),
            }
        }));
    }

    #[inline(never)]
    fn find_far(&mut self, number: i64) -> u32 {
        if !self.near.is_empty() {
            self.near = Vec::new();
            self.grow();
        }
        let mask = self.far.len() - 1;
        let mut at = spread(number as u64, self.far.len());
        loop {
            let position = self.far[at];
            if position == EMPTY {
                break;
            }
            if self.values[position as usize] == number {
                return position;
            }
            at = (at + 1) & mask;
        }
        let position = self.values.len() as u32;
        self.values.push(number);
        self.far[at] = position;
        if self.values.len() * 2 > self.far.len() {
            self.grow();
        }
        position
    }

    fn grow(&mut self) {
        let places = (self.values.len() * 4).next_power_of_two().max(1024);
        self.far = vec![EMPTY; places];
        for (position, number) in self.values.iter().enumerate() {
            let mut at = spread(*number as u64, places);
            while self.far[at] != EMPTY {
                at = (at + 1) & (places - 1);
            }
            self.far[at] = position as u32;
        }
    }
}

/// A place of so many, a power of two.
fn spread(value: u64, places: usize) -> usize {
    (value.wrapping_mul(SPREAD) >> (64 - places.trailing_zeros())) as usize
}

/// Texts and bytes.
pub(super) struct Texts {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    places: Vec<Place>,
    /// The number of the page in which a text was found last.
    seen: Vec<u32>,
}

/// Where a text is found: by its marks, which of up to sixteen bytes are the text itself.
#[derive(Clone, Copy)]
struct Place {
    marks: (u64, u64),
    length: u32,
    position: u32,
}

const NONE: Place = Place { marks: (0, 0), length: 0, position: EMPTY };

impl Texts {
    pub(super) fn new() -> Self {
        Self { bytes: Vec::new(), ends: Vec::new(), places: vec![NONE; 1024], seen: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of all texts.
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn get(&self, position: usize) -> &[u8] {
        let begin = position.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[begin as usize..self.ends[position] as usize]
    }

    /// The position of the text that lies there in these bytes, and whether it is the first time in this page.
    pub(super) fn find(&mut self, bytes: &[u8], begin: usize, end: usize, page: u32) -> (u32, bool) {
        let length = (end - begin) as u32;
        let marks = marks(bytes, begin, end);
        let mask = self.places.len() - 1;
        let mut at = place(marks, length, self.places.len());
        loop {
            let here = &self.places[at];
            if here.position == EMPTY {
                break;
            }
            if here.marks == marks
                && here.length == length
                && (length <= 16 || self.get(here.position as usize) == &bytes[begin..end])
            {
                let position = here.position;
                let seen = &mut self.seen[position as usize];
                let is_first = *seen != page;
                *seen = page;
                return (position, is_first);
            }
            at = (at + 1) & mask;
        }
        let position = self.ends.len() as u32;
        self.bytes.extend_from_slice(&bytes[begin..end]);
        self.ends.push(self.bytes.len() as u32);
        self.seen.push(page);
        self.places[at] = Place { marks, length, position };
        if self.ends.len() * 2 > self.places.len() {
            self.grow();
        }
        (position, true)
    }

    fn grow(&mut self) {
        let count = self.places.len() * 4;
        let before = std::mem::replace(&mut self.places, vec![NONE; count]);
        for known in before.into_iter().filter(|known| known.position != EMPTY) {
            let mut at = place(known.marks, known.length, count);
            while self.places[at].position != EMPTY {
                at = (at + 1) & (count - 1);
            }
            self.places[at] = known;
        }
    }
}

fn place(marks: (u64, u64), length: u32, places: usize) -> usize {
    spread(mix(marks.0 ^ u64::from(length) << 56, marks.1), places)
}

fn mix(hash: u64, word: u64) -> u64 {
    let wide = u128::from(hash ^ SPREAD) * u128::from(word ^ SPREAD.rotate_left(32));
    wide as u64 ^ (wide >> 64) as u64
}

/// Of up to eight bytes these, of up to sixteen the first and the last eight, of more a hash of all and the last eight.
fn marks(bytes: &[u8], begin: usize, end: usize) -> (u64, u64) {
    let word = |at: usize| bytes.get(at..at + 8).and_then(|word| word.try_into().ok()).map(u64::from_le_bytes);
    match end - begin {
        0 => (0, 0),
        length @ 1..=8 => {
            // With what lies behind it, which is cut off; at the end of the bytes there may be nothing.
            let whole = word(begin).unwrap_or_else(|| {
                let mut padded = [0; 8];
                padded[..length].copy_from_slice(&bytes[begin..end]);
                u64::from_le_bytes(padded)
            });
            (whole & u64::MAX >> (64 - 8 * length), 0)
        }
        9..=16 => (word(begin).unwrap_or(0), word(end - 8).unwrap_or(0)),
        _ => {
            let (words, _) = bytes[begin..end].as_chunks::<8>();
            let hash = words.iter().fold(0, |hash, word| mix(hash, u64::from_le_bytes(*word)));
            (hash, word(end - 8).unwrap_or(0))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn scattered(count: u64, below: u64) -> impl Iterator<Item = u64> {
        (0..count).map(move |i| i.wrapping_mul(SPREAD).rotate_right(29) % below)
    }

    #[test]
    fn numbers_are_found_again() {
        let near: Vec<i64> = scattered(5000, 3000).map(|n| n as i64 - 1500).collect();
        let far: Vec<i64> = scattered(50_000, 30_000).map(|n| n as i64 * 1_000_003 - (1 << 40)).collect();
        let ends = vec![i64::MAX, i64::MIN, 0, -1, i64::MIN, i64::MAX, i64::MAX - 1];
        let wanders: Vec<i64> = near.iter().chain(&far).chain(&ends).chain(&near).copied().collect();
        for numbers in [near, far, ends, wanders] {
            let (mut dictionary, mut positions) = (Numbers::new(), Vec::new());
            for piece in numbers.chunks(1024) {
                dictionary.find(piece, &mut positions);
            }
            let found: Vec<i64> = positions.iter().map(|p| dictionary.values()[*p as usize]).collect();
            assert_eq!(found, numbers);
            let mut different = numbers.clone();
            different.sort_unstable();
            different.dedup();
            assert_eq!(dictionary.values().len(), different.len());
        }
    }

    #[test]
    fn texts_are_found_again() {
        let mut dictionary = Texts::new();
        let mut known: HashMap<Vec<u8>, u32> = HashMap::new();
        // Of all lengths around those that are looked at differently, many the same at both ends.
        let texts = scattered(20_000, 5000).map(|n| {
            let middle = [n as u8, (n >> 8) as u8];
            let text: Vec<u8> = (0..n % 40).map(|i| if i == n % 40 / 2 { middle[0] } else { middle[1] % 3 }).collect();
            text
        });
        let texts: Vec<Vec<u8>> = texts.collect();
        let bytes = texts.concat();
        let mut begin = 0;
        for text in &texts {
            let (position, is_first) = dictionary.find(&bytes, begin, begin + text.len(), 0);
            begin += text.len();
            assert_eq!(is_first, !known.contains_key(text));
            assert_eq!(position, *known.entry(text.clone()).or_insert(position));
            assert_eq!(dictionary.get(position as usize), text);
        }
        assert_eq!(dictionary.len(), known.len());
        assert!(known.len() > 2000);
        let text = dictionary.get(0).to_vec();
        assert!(dictionary.find(&text, 0, text.len(), 1).1, "in another page");
        assert!(!dictionary.find(&text, 0, text.len(), 1).1);
    }

    #[test]
    fn what_lies_behind_a_text_is_no_part_of_it() {
        let mut dictionary = Texts::new();
        let one = dictionary.find(b"abXXXXXXXX", 0, 2, 0).0;
        assert_eq!(dictionary.find(b"abYYYYYYYY", 0, 2, 0), (one, false));
        assert_eq!(dictionary.find(b"YYab", 2, 4, 0), (one, false));
        assert_ne!(dictionary.find(b"ab\0", 0, 3, 0).0, one);
        assert_ne!(dictionary.find(b"", 0, 0, 0).0, dictionary.find(b"\0", 0, 1, 0).0);
    }
}
