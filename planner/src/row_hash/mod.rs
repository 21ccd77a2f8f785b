//! The canonical row hash: 128 bits that say whether two rows hold the same values, whatever system, Arrow type width or
//! column order they come in. `docs/reference/row-hash.md` is its specification; [`VERSION`] changes with it.
//!
//! Each value is hashed by itself, with XXH3-128 over a canonical encoding ([`canonical`]) and a seed made of the column's
//! name, and the hashes of a row's values are added modulo 2^128. NULL adds nothing: a column that is added with NULL
//! in every row changes no hash, and NULL is never confused with an empty value. Values are never concatenated, so no two
//! neighbours can be confused either.

mod canonical;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, FixedSizeBinaryBuilder};
use arrow::datatypes::{DataType, Field};
use arrow::row::{RowConverter, SortField};
use datafusion::common::{Result as DataFusionResult, ScalarValue, internal_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::error::{Error, Result};
use crate::types::is_uuid;
use canonical::Column;

/// The version of the specification.
pub const VERSION: u32 = 1;
/// Bytes of a hash.
pub const WIDTH: usize = 16;

/// What a digest of a row is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DigestKind {
    /// The canonical hash. -0 and 0 are different values, so that a target follows its source exactly; all NaN are one.
    Values,
    /// The canonical hash of a key, in which -0 and 0 are the same key.
    Key,
    /// Not a hash: the values themselves, encoded as one binary value a row that is equal only for equal rows.
    Exact,
}

/// The digest of a row as an expression. `fields` name and type the arguments, in their order.
pub fn digest(kind: DigestKind, columns: Vec<(Field, Expr)>) -> Expr {
    let (fields, arguments): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    ScalarUDF::new_from_impl(RowDigest::new(kind, fields)).call(arguments)
}

/// The function behind [`digest`]: `FixedSizeBinary(16)` for hashes, `Binary` for [`DigestKind::Exact`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RowDigest {
    kind: DigestKind,
    fields: Vec<Field>,
    signature: Signature,
}

impl RowDigest {
    pub const NAME: &'static str = "dpone_row_digest";

    pub fn new(kind: DigestKind, fields: Vec<Field>) -> Self {
        // Names, types and the uuid mark decide; other metadata would only make equal functions differ.
        let fields: Vec<Field> = fields
            .into_iter()
            .map(|f| {
                let plain = Field::new(f.name(), f.data_type().clone(), true);
                if is_uuid(&f) { crate::types::with_extension(plain, crate::types::EXTENSION_UUID) } else { plain }
            })
            .collect();
        let types = fields.iter().map(|f| f.data_type().clone()).collect();
        let signature = match fields.is_empty() {
            true => Signature::nullary(Volatility::Immutable),
            false => Signature::exact(types, Volatility::Immutable),
        };
        Self { kind, fields, signature }
    }

    pub fn kind(&self) -> DigestKind {
        self.kind
    }

    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    fn data_type(&self) -> DataType {
        match self.kind {
            DigestKind::Values | DigestKind::Key => DataType::FixedSizeBinary(WIDTH as i32),
            DigestKind::Exact => DataType::Binary,
        }
    }

    /// The digests of `rows` rows.
    pub fn apply(&self, arrays: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        if self.kind == DigestKind::Exact {
            return exact(arrays, rows);
        }
        let mut hashes = vec![0_u128; rows];
        for (field, array) in self.fields.iter().zip(arrays) {
            Column::new(field.name(), is_uuid(field), self.kind == DigestKind::Key).add(array, &mut hashes)?;
        }
        let mut builder = FixedSizeBinaryBuilder::with_capacity(rows, WIDTH as i32);
        for hash in hashes {
            builder.append_value(hash.to_be_bytes())?;
        }
        Ok(Arc::new(builder.finish()))
    }
}

/// Arrow's row format: one binary value a row, in which lengths and nulls are encoded.
fn exact(arrays: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
    if arrays.is_empty() {
        return Ok(ScalarValue::Binary(Some(Vec::new())).to_array_of_size(rows)?);
    }
    let sorts = arrays.iter().map(|a| SortField::new(a.data_type().clone())).collect();
    let encoded = RowConverter::new(sorts)?.convert_columns(arrays)?;
    Ok(Arc::new(encoded.try_into_binary()?))
}

/// The family of values, of those in the table of [`canonical`], that a column's hashes are made of: a column of another
/// type of the same family has the same hashes. `None` for a column of NULL alone, which adds nothing.
pub fn family(field: &Field) -> Option<String> {
    use DataType::*;
    let name = match field.data_type() {
        Null => return None,
        Boolean => "boolean",
        other if other.is_integer() || other.is_decimal() => "number",
        other if other.is_floating() => "float",
        Utf8 | LargeUtf8 | Utf8View => "text",
        FixedSizeBinary(_) if is_uuid(field) => "text",
        Binary | LargeBinary | BinaryView | FixedSizeBinary(_) => "binary",
        Date32 | Date64 => "date",
        Timestamp(_, None) => "timestamp",
        Timestamp(_, Some(_)) => "timestamp with zone",
        Time32(_) | Time64(_) => "time",
        Duration(_) => "duration",
        Interval(_) => "interval",
        Dictionary(_, value) => return family(&field.clone().with_data_type(value.as_ref().clone())),
        nested => return Some(crate::types::data_type_name(nested)),
    };
    Some(name.to_owned())
}

/// The hash that 32 hexadecimal digits spell, as a stored row hash has it.
pub fn parse_hex(text: &str) -> Option<u128> {
    (text.len() == 2 * WIDTH).then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

impl ScalarUDFImpl for RowDigest {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(self.data_type())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        if args.args.len() != self.fields.len() {
            return internal_err!("{} got {} of {} arguments", Self::NAME, args.args.len(), self.fields.len());
        }
        let arrays = args.args.iter().map(|a| a.to_array(args.number_rows)).collect::<DataFusionResult<Vec<_>>>()?;
        Ok(ColumnarValue::Array(self.apply(&arrays, args.number_rows)?))
    }
}

/// Hexadecimal digits of a hash, as it is stored: `FixedSizeBinary(16)` to text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HashText {
    signature: Signature,
}

impl Default for HashText {
    fn default() -> Self {
        let hash = DataType::FixedSizeBinary(WIDTH as i32);
        Self { signature: Signature::exact(vec![hash], Volatility::Immutable) }
    }
}

impl HashText {
    pub const NAME: &'static str = "dpone_hash_text";

    pub fn call(hash: Expr) -> Expr {
        ScalarUDF::new_from_impl(Self::default()).call(vec![hash])
    }
}

impl ScalarUDFImpl for HashText {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        use arrow::array::{AsArray, StringBuilder};
        let [hashes] = args.args.as_slice() else { return internal_err!("{} takes one argument", Self::NAME) };
        let hashes = hashes.to_array(args.number_rows)?;
        let hashes = hashes
            .as_fixed_size_binary_opt()
            .ok_or_else(|| Error::internal("the row hash to be stored is not 16 bytes wide"))?;
        let mut text = StringBuilder::with_capacity(hashes.len(), hashes.len() * 2 * WIDTH);
        let mut digits = [0_u8; 2 * WIDTH];
        for row in 0..hashes.len() {
            if hashes.is_null(row) {
                text.append_null();
                continue;
            }
            for (pair, byte) in digits.chunks_exact_mut(2).zip(hashes.value(row)) {
                pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
                pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
            }
            text.append_value(std::str::from_utf8(&digits).unwrap_or_default());
        }
        Ok(ColumnarValue::Array(Arc::new(text.finish())))
    }
}

#[cfg(test)]
mod tests;
