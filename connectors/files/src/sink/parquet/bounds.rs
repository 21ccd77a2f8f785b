//! The least and the greatest value of a page or a column, as statistics have them.

use parquet::basic::{ConvertedType, LogicalType, Type as PhysicalType};
use parquet::file::properties::DEFAULT_STATISTICS_TRUNCATE_LENGTH;
use parquet::schema::types::ColumnDescPtr;

/// `None` where there is no value. Numbers without a sign are in here as they are, and none of eight bytes is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Bounds {
    Numbers(Option<(i64, i64)>),
    Texts(Option<(Vec<u8>, Vec<u8>)>),
}

/// A bound's bytes, and whether it is a value or only lies beyond all of them.
type Bound = (Vec<u8>, bool);

impl Bounds {
    /// Of the same kind, without a value.
    pub(super) fn none(&self) -> Self {
        match self {
            Self::Numbers(_) => Self::Numbers(None),
            Self::Texts(_) => Self::Texts(None),
        }
    }

    pub(super) fn is_none(&self) -> bool {
        matches!(self, Self::Numbers(None) | Self::Texts(None))
    }

    pub(super) fn hold_number(&mut self, number: i64) {
        if let Self::Numbers(bounds) = self {
            let (least, greatest) = bounds.unwrap_or((number, number));
            *bounds = Some((least.min(number), greatest.max(number)));
        }
    }

    pub(super) fn hold_text(&mut self, text: &[u8]) {
        match self {
            Self::Texts(Some((least, greatest))) => {
                if text < least.as_slice() {
                    text.clone_into(least);
                } else if text > greatest.as_slice() {
                    text.clone_into(greatest);
                }
            }
            Self::Texts(bounds) => *bounds = Some((text.to_vec(), text.to_vec())),
            Self::Numbers(_) => {}
        }
    }

    pub(super) fn hold(&mut self, other: &Self) {
        match other {
            Self::Numbers(Some((least, greatest))) => {
                self.hold_number(*least);
                self.hold_number(*greatest);
            }
            Self::Texts(Some((least, greatest))) => {
                self.hold_text(least);
                self.hold_text(greatest);
            }
            _ => {}
        }
    }

    /// Whether one of the bounds is greater than the other's.
    pub(super) fn is_above(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Numbers(Some(a)), Self::Numbers(Some(b))) => a.0 > b.0 || a.1 > b.1,
            (Self::Texts(Some(a)), Self::Texts(Some(b))) => a.0 > b.0 || a.1 > b.1,
            _ => false,
        }
    }

    /// Both as they are stored, long texts cut; nothing where there is no value.
    pub(super) fn bytes(&self, descr: &ColumnDescPtr) -> (Bound, Bound) {
        let number = |number: i64| match descr.physical_type() {
            PhysicalType::INT32 => ((number as i32).to_le_bytes().to_vec(), true),
            _ => (number.to_le_bytes().to_vec(), true),
        };
        let is_utf8 =
            descr.logical_type_ref() == Some(&LogicalType::String) || descr.converted_type() == ConvertedType::UTF8;
        match self {
            Self::Numbers(Some((least, greatest))) => (number(*least), number(*greatest)),
            Self::Texts(Some((least, greatest))) => {
                let cut = |text: &[u8], shortened: fn(&[u8], bool, usize) -> Option<Vec<u8>>| {
                    let length = DEFAULT_STATISTICS_TRUNCATE_LENGTH.filter(|length| text.len() > *length);
                    let short = length.and_then(|length| shortened(text, is_utf8, length));
                    short.map_or_else(|| (text.to_vec(), true), |short| (short, false))
                };
                (cut(least, |text, is_utf8, length| Some(head(text, is_utf8, length).to_vec())), cut(greatest, above))
            }
            _ => ((Vec::new(), true), (Vec::new(), true)),
        }
    }
}

/// The first bytes, whole characters of them.
fn head(text: &[u8], is_utf8: bool, length: usize) -> &[u8] {
    match str::from_utf8(text) {
        Ok(text) if is_utf8 => &text.as_bytes()[..text.floor_char_boundary(length)],
        _ => &text[..length],
    }
}

/// The least text of no more bytes that is greater than all that begin like this one.
fn above(text: &[u8], is_utf8: bool, length: usize) -> Option<Vec<u8>> {
    let head = head(text, is_utf8, length);
    match str::from_utf8(head) {
        Ok(head) if is_utf8 => head.char_indices().rev().find_map(|(at, last)| {
            let next = char::from_u32(last as u32 + 1).filter(|next| next.len_utf8() == last.len_utf8())?;
            Some(format!("{}{next}", &head[..at]).into_bytes())
        }),
        _ => {
            let at = head.iter().rposition(|byte| *byte < u8::MAX)?;
            let mut above = head[..=at].to_vec();
            above[at] += 1;
            Some(above)
        }
    }
}
