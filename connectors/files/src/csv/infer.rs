//! What type a column of text has: the narrowest that gives every sampled value back exactly.

use arrow::datatypes::{DataType, Field, TimeUnit};
use dpone_planner::types::utc;

use super::values::{date, integer, timestamp, truth};

/// What is often written for a missing value: a column that would be a number but for one of these gets a note.
const USUAL_MARKERS: &[&str] = &["NA", "N/A", "n/a", "NULL", "null", "\\N", "None", "-", "?", "."];

/// Facts about the values of one column.
#[derive(Debug, Clone, Default)]
pub(crate) struct Guess {
    integers: bool,
    /// Integers beyond 64 bits.
    wide: bool,
    reals: bool,
    /// Reals with more digits than a double gives back.
    long_reals: bool,
    /// Reals with an exponent, which no decimal type is declared from.
    exponents: bool,
    not_finite: bool,
    booleans: bool,
    dates: bool,
    naive: bool,
    zoned: bool,
    nanoseconds: bool,
    text: bool,
    /// Most digits before and after the point.
    whole_digits: usize,
    scale: usize,
    /// Integers that a double does not hold.
    beyond_double: bool,
    marker: Option<&'static str>,
}

impl Guess {
    /// Takes one value into account that is not NULL.
    pub(crate) fn see(&mut self, bytes: &[u8], quoted: bool) {
        if let Some(marker) = USUAL_MARKERS.iter().find(|m| !quoted && m.as_bytes() == bytes) {
            self.marker = Some(marker);
            return;
        }
        if self.text {
            return;
        }
        match bytes.first() {
            // Quoted: elsewhere an empty field is NULL. It can only be told from NULL in a text column, and it does not
            // make one of a column of quoted numbers.
            None => {}
            Some(b'0'..=b'9' | b'-' | b'.') => self.see_number_or_time(bytes),
            Some(_) if truth(bytes).is_some() && bytes.len() > 1 => self.booleans = true,
            Some(_) if is_not_finite(bytes) => self.not_finite = true,
            Some(_) => self.text = true,
        }
    }

    fn see_number_or_time(&mut self, bytes: &[u8]) {
        let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
        if digits.iter().all(u8::is_ascii_digit) && !digits.is_empty() {
            // A leading zero belongs to a code, such as a postal code; so does the sign of a zero.
            if digits.len() > 1 && digits[0] == b'0' {
                self.text = true;
                return;
            }
            if bytes == b"-0" {
                self.reals = true;
                return;
            }
            self.whole_digits = self.whole_digits.max(digits.len());
            match integer(bytes) {
                Some(value) => {
                    self.integers = true;
                    self.beyond_double |= value.unsigned_abs() > 1 << 53;
                }
                None => self.wide = true,
            }
        } else if let Some(real) = real(digits) {
            self.reals = true;
            self.exponents |= real.exponent;
            self.long_reals |= real.significant > 17;
            self.whole_digits = self.whole_digits.max(real.whole);
            self.scale = self.scale.max(real.scale);
        } else if date(bytes).is_some() {
            self.dates = true;
        } else if let Some((_, nanos)) = timestamp(bytes, false) {
            self.naive = true;
            self.nanoseconds |= nanos % 1000 != 0;
        } else if let Some((_, nanos)) = timestamp(bytes, true) {
            self.zoned = true;
            self.nanoseconds |= nanos % 1000 != 0;
        } else if digits.eq_ignore_ascii_case(b"inf") || digits.eq_ignore_ascii_case(b"infinity") {
            self.not_finite = true;
        } else {
            self.text = true;
        }
    }

    /// The column's type.
    pub(crate) fn field(&self, name: &str) -> Field {
        Field::new(name, if self.marker.is_some() { DataType::Utf8 } else { self.data_type() }, true)
    }

    /// The usual marker that keeps the column from another type, and that type.
    pub(crate) fn held_back_by(&self) -> Option<(&'static str, DataType)> {
        let other = self.data_type();
        self.marker.filter(|_| other != DataType::Utf8).map(|marker| (marker, other))
    }

    fn data_type(&self) -> DataType {
        let numbers = self.integers || self.wide || self.reals;
        let times = self.naive || self.zoned;
        let classes = [numbers, self.booleans, self.dates, self.naive, self.zoned];
        if self.text || classes.iter().filter(|c| **c).count() != 1 || (self.not_finite && !numbers) {
            return DataType::Utf8;
        }
        if self.booleans {
            return DataType::Boolean;
        }
        if self.dates {
            return DataType::Date32;
        }
        if times {
            let unit = if self.nanoseconds { TimeUnit::Nanosecond } else { TimeUnit::Microsecond };
            return DataType::Timestamp(unit, self.zoned.then(utc));
        }
        if !self.reals && !self.wide && !self.not_finite {
            return DataType::Int64;
        }
        let exact_in_double = !(self.wide || self.long_reals || self.beyond_double);
        if (self.reals || self.not_finite) && exact_in_double {
            return DataType::Float64;
        }
        let precision = self.whole_digits + self.scale;
        if precision <= 38 && !self.exponents && !self.not_finite {
            // Room for longer values than those that were seen.
            return DataType::Decimal128(38, self.scale as i8);
        }
        DataType::Utf8
    }
}

struct Real {
    whole: usize,
    scale: usize,
    significant: usize,
    exponent: bool,
}

/// A number with a point or an exponent, without its sign.
fn real(bytes: &[u8]) -> Option<Real> {
    let count = |bytes: &[u8]| bytes.iter().take_while(|b| b.is_ascii_digit()).count();
    let whole = count(bytes);
    let mut rest = &bytes[whole..];
    let mut scale = 0;
    if let Some(fraction) = rest.strip_prefix(b".") {
        scale = count(fraction);
        rest = &fraction[scale..];
    }
    if whole + scale == 0 || (whole > 1 && bytes[0] == b'0') {
        return None;
    }
    let mut exponent = false;
    if let [b'e' | b'E', after @ ..] = rest {
        let digits = match after {
            [b'+' | b'-', digits @ ..] => digits,
            digits => digits,
        };
        if digits.is_empty() || count(digits) != digits.len() {
            return None;
        }
        exponent = true;
        rest = &[];
    }
    let all = bytes[..bytes.len() - rest.len()].iter().take_while(|b| !matches!(b, b'e' | b'E'));
    let significant = all.filter(|b| b.is_ascii_digit()).skip_while(|b| **b == b'0').count();
    rest.is_empty().then_some(Real { whole, scale, significant, exponent })
}

fn is_not_finite(bytes: &[u8]) -> bool {
    [&b"nan"[..], b"inf", b"infinity"].iter().any(|name| bytes.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dpone_planner::types::data_type_name;

    fn guess(values: &[&str]) -> String {
        let mut guess = Guess::default();
        values.iter().for_each(|v| guess.see(v.as_bytes(), false));
        data_type_name(guess.field("c").data_type())
    }

    #[test]
    fn the_narrowest_type_that_gives_every_value_back() {
        for (values, expected) in [
            (&["1", "-2", "0"][..], "bigint"),
            (&["00501", "10001"], "text"),
            (&["+4912345"], "text"),
            (&["1", "2.5"], "double"),
            (&["10.357019999999999"], "double"),
            (&["-0"], "double"),
            (&["1e5", "2"], "double"),
            (&["1.5", "NaN", "-Infinity"], "double"),
            (&["NaN"], "text"),
            (&["9223372036854775808"], "decimal(38,0)"),
            (&["9223372036854775808", "0.5"], "decimal(38,1)"),
            (&["9007199254740993", "0.5"], "decimal(38,1)"),
            (&["3.14159265358979323846"], "decimal(38,20)"),
            (&["123456789012345678901234567890123456789"], "text"),
            (&["true", "False"], "boolean"),
            (&["t", "f"], "text"),
            (&["2013-01-01"], "date"),
            (&["2013-02-30"], "text"),
            (&["2013-01-01T06:00:00Z", "2013-01-01 06:00:00+02"], "timestamptz"),
            (&["2013-01-01 06:00:00"], "timestamp"),
            (&["2013-01-01 06:00:00.123456789"], "timestamp(9)"),
            (&["2013-01-01 06:00:00", "2013-01-01T06:00:00Z"], "text"),
            (&["2013-01-01", "2013-01-01 06:00:00"], "text"),
            (&["1", "x"], "text"),
            (&["1", "2013-01-01"], "text"),
            (&["1.2.3"], "text"),
            (&["-"], "text"),
            (&[], "text"),
            (&["1", "NA"], "text"),
        ] {
            assert_eq!(guess(values), expected, "{values:?}");
        }
    }

    #[test]
    fn a_usual_marker_is_noticed() {
        let mut guess = Guess::default();
        guess.see(b"1", false);
        guess.see(b"NA", false);
        assert_eq!(guess.held_back_by(), Some(("NA", DataType::Int64)));
        guess.see(b"x", false);
        assert_eq!(guess.held_back_by(), None);
    }
}
