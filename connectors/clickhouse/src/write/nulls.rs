//! NULLs inside of values: items of an array, fields of a tuple. Where the column's type takes none, the server fails
//! without saying which row it was, or, of a tuple that comes as text, puts a zero in its place.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::DataType;

use super::keys::parts;
use crate::types::ChType;

/// Whether there are values of this Arrow type that have NULLs where the column takes none.
pub(super) fn may_lie(values: &DataType, native: &ChType) -> bool {
    match (values, native) {
        (_, ChType::Nullable(inner) | ChType::LowCardinality(inner)) => may_lie(values, inner),
        (DataType::List(item), ChType::Array(native)) => {
            item.is_nullable() && !native.is_nullable() || may_lie(item.data_type(), native)
        }
        (DataType::Utf8, ChType::Tuple(_)) => refuses(native),
        _ => false,
    }
}

/// Whether the type has an item or a field that takes no NULL.
fn refuses(native: &ChType) -> bool {
    let inner = |of: &ChType| !of.is_nullable() || refuses(of);
    match native {
        ChType::Array(item) => inner(item),
        ChType::Map(_, value) => inner(value),
        ChType::Tuple(fields) => fields.iter().any(|(_, of)| inner(of)),
        _ => false,
    }
}

/// The first row with a NULL where the column takes none.
pub(super) fn first(values: &ArrayRef, native: &ChType) -> Option<usize> {
    match (values.data_type(), native) {
        (_, ChType::Nullable(inner) | ChType::LowCardinality(inner)) => first(values, inner),
        (DataType::List(_), ChType::Array(native)) => {
            let lists = values.as_list::<i32>();
            let (items, offsets) = (lists.values(), lists.offsets());
            let missing = items.null_count() > 0 && !native.is_nullable();
            let deeper = first(items, native).is_some();
            if !missing && !deeper {
                return None;
            }
            // What lies under a NULL list, or outside of all lists, is no item.
            (0..lists.len()).filter(|row| lists.is_valid(*row)).find(|row| {
                let (begin, end) = (offsets[*row] as usize, offsets[*row + 1] as usize);
                missing && (begin..end).any(|item| items.is_null(item))
                    || deeper && first(&items.slice(begin, end - begin), native).is_some()
            })
        }
        (DataType::Utf8, ChType::Tuple(_)) => {
            let texts = values.as_string::<i32>();
            texts.iter().position(|text| text.is_some_and(|text| told(text, native)))
        }
        _ => None,
    }
}

/// Whether a value as the server prints it has a NULL where its type takes none.
fn told(text: &str, native: &ChType) -> bool {
    let text = text.trim();
    if text.eq_ignore_ascii_case("NULL") {
        return !native.is_nullable();
    }
    let between = |open: char, close: char| text.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
    match native {
        ChType::Nullable(inner) | ChType::LowCardinality(inner) => told(text, inner),
        ChType::Tuple(fields) => between('(', ')')
            .is_some_and(|inside| fields.iter().zip(parts(inside, ',')).any(|((_, of), part)| told(part, of))),
        ChType::Array(item) => {
            between('[', ']').is_some_and(|inside| parts(inside, ',').into_iter().any(|part| told(part, item)))
        }
        ChType::Map(_, value) => between('{', '}').is_some_and(|inside| {
            let mut entries = parts(inside, ',').into_iter();
            entries.any(|entry| parts(entry, ':').get(1).is_some_and(|part| told(part, value)))
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::array::{ListArray, StringArray};
    use arrow::buffer::NullBuffer;
    use arrow::datatypes::Int32Type;

    use super::*;

    fn found(values: ArrayRef, native: &str) -> Option<usize> {
        let native = ChType::native(native).unwrap();
        may_lie(values.data_type(), &native).then(|| first(&values, &native))?
    }

    #[test]
    fn a_null_among_items_is_found_with_its_row() {
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([
            Some(vec![Some(1)]),
            None,
            Some(vec![]),
            Some(vec![Some(2), None]),
        ]);
        assert_eq!(found(Arc::new(lists.clone()), "Array(Int32)"), Some(3));
        assert_eq!(found(Arc::new(lists.clone()), "Array(Nullable(Int32))"), None);
        assert_eq!(found(Arc::new(lists.slice(0, 3)), "Array(Int32)"), None);
        // Items under a NULL are none.
        let (field, offsets, items, _) = lists.into_parts();
        let hidden = ListArray::new(field, offsets, items, Some(NullBuffer::from(vec![true, true, true, false])));
        assert_eq!(found(Arc::new(hidden), "Array(Int32)"), None);
    }

    #[test]
    fn a_null_in_a_tuple_that_is_text_is_found_with_its_row() {
        let texts = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec!["(1,'x')", text])) };
        for (native, held, refused) in [
            ("Tuple(a Int32, b String)", "(1,'NULL')", "(NULL,'x')"),
            ("Tuple(a Int32, b String)", "(1,'a, NULL')", "(1,null)"),
            ("Tuple(a Nullable(Int32), b String)", "(NULL,'x')", "(NULL,NULL)"),
            ("Tuple(a Int32, b Array(Int32))", "(1,[1,2])", "(1,[1,NULL])"),
            ("Tuple(a Int32, b Map(String, Int32))", "(1,{'NULL':1,'b,:':2})", "(1,{'a':1,'b':NULL})"),
            ("Tuple(a Int32, b Tuple(c Nullable(String), d Int8))", "(1,(NULL,2))", "(1,('x',NULL))"),
            ("Tuple(a Array(Tuple(b Int8, c String)))", "([(1,'x'),(2,'y')])", "([(1,'x'),(NULL,'y')])"),
        ] {
            assert_eq!(found(texts(held), native), None, "{native} {held}");
            assert_eq!(found(texts(refused), native), Some(1), "{native} {refused}");
        }
    }
}
