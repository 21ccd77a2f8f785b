//! The loops that touch every value, without a server: rows of binary COPY to Arrow, and back. For benchmarks.

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use dpone_planner::{Error, Result};

use crate::types::{self, PgType, TypeKind};
use crate::write::encode::{ElementType, HEADER, RowEncoder, TRAILER, WireType};
use crate::{SYSTEM, read};

/// Columns as both directions know them.
#[derive(Debug)]
pub struct Kernels {
    columns: Vec<types::Column>,
    schema: SchemaRef,
    encoder: RowEncoder,
}

impl Kernels {
    /// For columns of native types: `integer`, `numeric(15,2)`, `timestamp with time zone`, `integer[]`.
    pub fn new(columns: &[(&str, &str)], nullable: bool) -> Result<Self> {
        let columns = columns
            .iter()
            .map(|(name, native)| types::column(name, &named(native), nullable, false, None))
            .collect::<Result<Vec<_>>>()?;
        let wires = columns.iter().map(wire).collect::<Result<Vec<_>>>()?;
        let encoded = columns.iter().zip(&wires).enumerate().map(|(i, (column, wire))| (i, &column.field, wire));
        let encoder = RowEncoder::compile(encoded)?;
        let fields: Vec<FieldRef> = columns.iter().map(|column| column.field.clone().into()).collect();
        Ok(Self { schema: std::sync::Arc::new(Schema::new(fields)), encoder, columns })
    }

    /// The schema that is decoded, and that encoded batches have.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// A whole COPY stream.
    pub fn encode(&self, batches: &[RecordBatch]) -> Result<Vec<u8>> {
        let (mut out, mut kept, mut rows) = (HEADER.to_vec(), Vec::new(), 0);
        for batch in batches {
            let bound = self.encoder.bind(batch, rows, &mut kept)?;
            bound.write(0, &mut out, usize::MAX);
            rows += batch.num_rows() as u64;
        }
        out.extend_from_slice(TRAILER);
        Ok(out)
    }

    /// The rows of a COPY stream that arrives in pieces of `piece` bytes.
    pub fn decode(&self, copy: &[u8], piece: usize, batch_rows: usize) -> Result<Vec<RecordBatch>> {
        let decode: Vec<_> = self.columns.iter().map(|column| column.decode.clone()).collect();
        let mut decoder = read::copy::RowDecoder::new(SchemaRef::clone(&self.schema), &decode, batch_rows)?;
        let mut batches = Vec::new();
        for piece in copy.chunks(piece) {
            decoder.feed(piece)?;
            batches.extend(decoder.full()?);
        }
        batches.extend(decoder.end()?);
        Ok(batches)
    }
}

fn named(native: &str) -> PgType {
    let field = Field::new("", DataType::Null, true);
    match native.strip_suffix("[]") {
        Some(item) => PgType {
            oid: 0,
            typmod: -1,
            native: native.to_owned(),
            kind: TypeKind::Array(Box::new(PgType::named(&field, item))),
        },
        None if native == "jsonb" => PgType::builtin(types::oid::JSONB, native),
        None => PgType::named(&field, native),
    }
}

fn wire(column: &types::Column) -> Result<WireType> {
    let base = column.native.base();
    let element = match &base.kind {
        TypeKind::Array(item) => Some(ElementType { oid: item.oid, receive: receive(item)?.to_owned() }),
        _ => None,
    };
    let receive = if element.is_some() { "array_recv" } else { receive(base)? };
    let sql = base.native.clone();
    Ok(WireType {
        base_sql: sql.clone(),
        cast_sql: sql.clone(),
        sql,
        receive: receive.to_owned(),
        typmod: base.typmod,
        element,
    })
}

fn receive(base: &PgType) -> Result<&'static str> {
    use types::oid;
    Ok(match base.oid {
        oid::BOOL => "boolrecv",
        oid::INT2 => "int2recv",
        oid::INT4 => "int4recv",
        oid::INT8 => "int8recv",
        oid::FLOAT8 => "float8recv",
        oid::NUMERIC => "numeric_recv",
        oid::TEXT | oid::VARCHAR | oid::BPCHAR => "textrecv",
        oid::BYTEA => "bytearecv",
        oid::UUID => "uuid_recv",
        oid::DATE => "date_recv",
        oid::TIMESTAMPTZ => "timestamptz_recv",
        oid::FLOAT4 => "float4recv",
        oid::TIME => "time_recv",
        oid::JSONB => "jsonb_recv",
        _ => return Err(Error::configuration(format!("no kernel for {SYSTEM} type {}", base.native))),
    })
}
