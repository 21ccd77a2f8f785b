//! Which Arrow types Parquet and CSV files store.

use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use dpone_engine::{Error, Relation, Result};
use dpone_planner::dialect::Dialect;
use dpone_planner::schema::SchemaChange;
use dpone_planner::types::{is_raw, is_uuid, logical_name};

use crate::config::Format;

#[derive(Debug)]
pub(crate) struct FileDialect(pub(crate) Format);

impl Dialect for FileDialect {
    fn system(&self) -> &'static str {
        if self.0 == Format::Csv { "csv" } else { "parquet" }
    }

    fn quote(&self, identifier: &str) -> String {
        format!("\"{}\"", identifier.replace('"', "\"\""))
    }

    fn native_type(&self, field: &Field) -> Result<String> {
        self.stored_field(field).map(|f| logical_name(&f))
    }

    fn stored_field(&self, field: &Field) -> Result<Field> {
        let refuse = |hint: &str| {
            Err(Error::configuration(format!(
                "column {:?}: a {} cannot be stored in {} exactly",
                field.name(),
                logical_name(field),
                self.system()
            ))
            .with("column", field.name())
            .with_hint(hint))
        };
        if is_raw(field) {
            return Err(Error::internal(format!("column {:?} is in another system's own form", field.name())));
        }
        match (stored_type(field, self.0), field.data_type()) {
            (Some(data_type), _) => Ok(field.clone().with_data_type(data_type)),
            (None, DataType::Interval(_) | DataType::Duration(_)) => {
                refuse("convert it in a query: to text, or to a number of microseconds")
            }
            (None, _) if self.0 == Format::Csv => refuse("convert it to text or JSON in a query, or use parquet"),
            (None, _) => refuse("convert it to text in a query"),
        }
    }

    fn check_partitions(&self, partition_by: &[String]) -> Result<()> {
        if partition_by.is_empty() {
            return Ok(());
        }
        Err(Error::configuration(format!("a {} sink has no partitions", self.system()))
            .with_hint("leave PARTITION BY out, or use delta"))
    }

    fn render(&self, table: &Relation, change: &SchemaChange) -> Result<Vec<String>> {
        match change {
            SchemaChange::CreateTable { schema, .. } => {
                let columns = schema.fields().iter().map(|field| {
                    let null = if field.is_nullable() { "" } else { " not null" };
                    Ok(format!("{} {}{null}", self.quote(field.name()), self.native_type(field)?))
                });
                let columns = columns.collect::<Result<Vec<_>>>()?.join(", ");
                Ok(vec![format!("folder {}/{} of {} files ({columns})", table.schema, table.name, self.system())])
            }
            other => dpone_planner::schema::describe_change(self, table, other),
        }
    }
}

fn stored_type(field: &Field, format: Format) -> Option<DataType> {
    use DataType::*;
    let data_type = field.data_type();
    if format == Format::Csv {
        return Some(match data_type {
            Boolean | Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64 | Float32 | Float64 | Date32 => {
                data_type.clone()
            }
            Float16 => Float32,
            Decimal128(_, 0..) => data_type.clone(),
            Decimal32(p, s @ 0..) | Decimal64(p, s @ 0..) => Decimal128(*p, *s),
            Utf8 | LargeUtf8 | Utf8View | Null => Utf8,
            FixedSizeBinary(_) if is_uuid(field) => data_type.clone(),
            Binary | LargeBinary | BinaryView | FixedSizeBinary(_) => Binary,
            Date64 => Date32,
            Time32(_) | Time64(TimeUnit::Microsecond) => Time64(TimeUnit::Microsecond),
            Timestamp(TimeUnit::Nanosecond, zone) => Timestamp(TimeUnit::Nanosecond, zone.as_ref().map(|_| utc())),
            Timestamp(_, zone) => Timestamp(TimeUnit::Microsecond, zone.as_ref().map(|_| utc())),
            Dictionary(_, value) => {
                return stored_type(&field.clone().with_data_type(value.as_ref().clone()), format);
            }
            _ => return None,
        });
    }
    Some(match data_type {
        Interval(_) | Duration(_) | Union(..) => return None,
        // Parquet has no such types; these hold every value and read back as they are.
        Null => Utf8,
        Utf8View | LargeUtf8 => Utf8,
        BinaryView | LargeBinary => Binary,
        Date64 => Date32,
        Timestamp(TimeUnit::Second, zone) => Timestamp(TimeUnit::Millisecond, zone.clone()),
        Time32(TimeUnit::Second) => Time32(TimeUnit::Millisecond),
        Dictionary(_, value) => return stored_type(&field.clone().with_data_type(value.as_ref().clone()), format),
        List(item) | LargeList(item) | ListView(item) | LargeListView(item) => List(stored_item(item, format)?),
        FixedSizeList(item, n) => FixedSizeList(stored_item(item, format)?, *n),
        Struct(fields) if fields.is_empty() => return None,
        Struct(fields) => Struct(fields.iter().map(|f| stored_item(f, format)).collect::<Option<_>>()?),
        RunEndEncoded(_, values) => {
            return stored_type(&field.clone().with_data_type(values.data_type().clone()), format);
        }
        other => other.clone(),
    })
}

fn stored_item(item: &FieldRef, format: Format) -> Option<FieldRef> {
    Some(FieldRef::new(item.as_ref().clone().with_data_type(stored_type(item, format)?)))
}

fn utc() -> std::sync::Arc<str> {
    dpone_planner::types::utc()
}
