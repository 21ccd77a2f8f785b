//! Texts that the server makes values of: labels of enums, and addresses.
//!
//! It refuses a text that is none without saying in which row of which column, so they are looked at before they are sent.

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::DataType;

use crate::types::ChType;

/// Which texts a column takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Texts {
    Labels(HashSet<String>),
    Ipv4,
    /// An address of version 4 is one of version 6 as well.
    Ipv6,
}

impl Texts {
    /// `None`: any text, or no texts.
    pub(super) fn of(values: &DataType, native: &ChType) -> Option<Self> {
        match (values, native) {
            (values, ChType::Nullable(inner) | ChType::LowCardinality(inner)) => Self::of(values, inner),
            (DataType::List(item), ChType::Array(native)) => Self::of(item.data_type(), native),
            (DataType::Utf8 | DataType::Utf8View, ChType::Enum { labels, .. }) => {
                Some(Self::Labels(labels.iter().map(|(label, _)| label.clone()).collect()))
            }
            (DataType::Utf8 | DataType::Utf8View, ChType::Plain("IPv4")) => Some(Self::Ipv4),
            (DataType::Utf8 | DataType::Utf8View, ChType::Plain("IPv6")) => Some(Self::Ipv6),
            _ => None,
        }
    }

    fn takes(&self, text: &str) -> bool {
        match self {
            Self::Labels(labels) => labels.contains(text),
            Self::Ipv4 => text.parse::<Ipv4Addr>().is_ok(),
            Self::Ipv6 => text.parse::<Ipv6Addr>().is_ok() || text.parse::<Ipv4Addr>().is_ok(),
        }
    }

    /// The first row whose text the column does not take.
    pub(super) fn first_refused(&self, values: &ArrayRef) -> Option<usize> {
        let refused = |text: Option<&str>| text.is_some_and(|text| !self.takes(text));
        match values.data_type() {
            DataType::Utf8 => values.as_string::<i32>().iter().position(refused),
            DataType::Utf8View => values.as_string_view().iter().position(refused),
            DataType::List(_) => {
                let lists = values.as_list::<i32>();
                (0..lists.len()).find(|row| lists.is_valid(*row) && self.first_refused(&lists.value(*row)).is_some())
            }
            _ => None,
        }
    }

    pub(super) fn refusal(&self) -> &'static str {
        match self {
            Self::Labels(_) => "the text is none of the labels of its enum",
            Self::Ipv4 => "the text is no address of IPv4",
            Self::Ipv6 => "the text is no address of IPv6",
        }
    }

    pub(super) fn hint(&self) -> &'static str {
        match self {
            Self::Labels(_) => {
                "add the label to the column (ALTER TABLE … MODIFY COLUMN … Enum8(…)), load into a String, or filter or convert \
                 it in a query"
            }
            Self::Ipv4 | Self::Ipv6 => "load into a String, or filter or convert it in a query",
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::array::{ListBuilder, StringArray, StringBuilder, StringViewArray};

    use super::*;

    fn refused(native: &str, values: ArrayRef) -> Option<usize> {
        Texts::of(values.data_type(), &ChType::native(native).unwrap())?.first_refused(&values)
    }

    #[test]
    fn the_first_text_that_a_column_does_not_take_is_found() {
        let texts = |texts: &[Option<&str>]| Arc::new(StringArray::from(texts.to_vec())) as ArrayRef;
        let labels = "Nullable(Enum8('a' = 1, '' = 2))";
        assert_eq!(refused(labels, texts(&[Some("a"), None, Some("")])), None);
        assert_eq!(refused(labels, texts(&[Some("a"), None, Some("b")])), Some(2));
        // The number of a label is another text.
        assert_eq!(refused("LowCardinality(Enum8('a' = 1))", texts(&[Some("1")])), Some(0));
        assert_eq!(refused("IPv4", texts(&[Some("10.0.0.1"), Some("10.0.0.1/8")])), Some(1));
        assert_eq!(refused("IPv6", texts(&[Some("::1"), Some("10.0.0.1"), Some("fe80::g")])), Some(2));
        let views = StringViewArray::from(vec![Some("a"), Some("c")]);
        assert_eq!(refused("Enum16('a' = 1)", Arc::new(views)), Some(1));
        assert_eq!(refused("String", texts(&[Some("b")])), None);
        let mut lists = ListBuilder::new(StringBuilder::new());
        lists.append_value([Some("a"), None]);
        lists.append_null();
        lists.append_value([Some("a"), Some("b")]);
        assert_eq!(refused("Array(Enum8('a' = 1))", Arc::new(lists.finish())), Some(2));
    }
}
