//! Every stored type at its extremes, read back exactly by our source and alike by readers that are not ours.

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{DataType, Field, Int32Type, Schema, TimeUnit};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;
use dpone_planner::dialect::Dialect;
use dpone_planner::plan::WriteMode;
use dpone_planner::types::{self, native_of, with_extension, with_native};
use futures::TryStreamExt;

use crate::lake::{Lake, Load, orders, stored};

fn zoo() -> RecordBatch {
    let utc = Some(types::utc());
    let micros = |tz: Option<Arc<str>>| DataType::Timestamp(TimeUnit::Microsecond, tz);
    let times = vec![Some(-62_135_596_800_000_000), Some(253_402_300_799_999_999), Some(-1), None];
    let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([
        Some(vec![Some(1), None]),
        Some(vec![]),
        None,
        Some(vec![None]),
    ]);
    let element = Arc::new(Field::new("element", DataType::Int32, true));
    let lists =
        ListArray::new(element.clone(), lists.offsets().clone(), lists.values().clone(), lists.nulls().cloned());
    let inner: ArrayRef = Arc::new(StringArray::from(vec![Some("x"), None, Some(""), Some("y")]));
    let structs = StructArray::from((
        vec![(Arc::new(Field::new("a", DataType::Utf8, true)), inner)],
        arrow::buffer::Buffer::from([0b0111u8]),
    ));
    let big = 10_i128.pow(38) - 1;
    let fields = vec![
        Field::new("c_bool", DataType::Boolean, true),
        Field::new("c_byte", DataType::Int8, true),
        Field::new("c_short", DataType::Int16, true),
        Field::new("c_int", DataType::Int32, true),
        Field::new("c_long", DataType::Int64, true),
        Field::new("c_float", DataType::Float32, true),
        Field::new("c_double", DataType::Float64, true),
        Field::new("c_dec", DataType::Decimal128(38, 10), true),
        with_native(Field::new("c_text", DataType::Utf8, true), "postgres", "character varying(20)"),
        with_extension(Field::new("c_json", DataType::Utf8, true), types::EXTENSION_JSON),
        Field::new("c_bin", DataType::Binary, true),
        Field::new("c_date", DataType::Date32, true),
        Field::new("c_instant", micros(utc.clone()), true),
        Field::new("c_local", micros(None), true),
        Field::new("c_list", lists.data_type().clone(), true),
        Field::new("c_struct", structs.data_type().clone(), true),
        Field::new("required", DataType::Int64, false),
    ];
    let columns: Vec<ArrayRef> = vec![
        Arc::new(BooleanArray::from(vec![Some(true), Some(false), None, Some(true)])),
        Arc::new(Int8Array::from(vec![Some(i8::MIN), Some(i8::MAX), None, Some(0)])),
        Arc::new(Int16Array::from(vec![Some(i16::MIN), Some(i16::MAX), None, Some(0)])),
        Arc::new(Int32Array::from(vec![Some(i32::MIN), Some(i32::MAX), None, Some(0)])),
        Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(i64::MAX), None, Some(0)])),
        Arc::new(Float32Array::from(vec![Some(f32::NAN), Some(f32::MIN_POSITIVE), None, Some(-0.0)])),
        Arc::new(Float64Array::from(vec![Some(f64::NAN), Some(f64::NEG_INFINITY), None, Some(-0.0)])),
        Arc::new(
            Decimal128Array::from(vec![Some(-big), Some(big), None, Some(1)]).with_precision_and_scale(38, 10).unwrap(),
        ),
        Arc::new(StringArray::from(vec![Some(""), Some("日本 'ü'\u{10FFFF}"), None, Some("z")])),
        Arc::new(StringArray::from(vec![Some("{\"a\":1}"), Some("null"), None, Some("[]")])),
        Arc::new(BinaryArray::from(vec![Some(&b""[..]), Some(&[0u8, 255][..]), None, Some(&b"x"[..])])),
        Arc::new(Date32Array::from(vec![Some(-719_162), Some(2_932_896), None, Some(-1)])),
        Arc::new(TimestampMicrosecondArray::from(times.clone()).with_timezone("UTC")),
        Arc::new(TimestampMicrosecondArray::from(times)),
        Arc::new(lists),
        Arc::new(structs),
        Arc::new(Int64Array::from(vec![1, 2, 3, 4])),
    ];
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_comes_back_exactly() {
    let (lake, table, batch) = (Lake::new(), orders(), zoo());
    assert_eq!(stored(&batch.schema()).as_ref(), batch.schema().as_ref(), "the test stages stored types");
    lake.load(&table, &Load::new(WriteMode::Append), std::slice::from_ref(&batch)).await.unwrap();
    let read = lake.batches(&table, "select * from t order by required").await;
    assert_eq!(read.iter().map(RecordBatch::num_rows).sum::<usize>(), 4);
    for (i, field) in batch.schema().fields().iter().enumerate() {
        let column = read[0].column_by_name(field.name()).unwrap();
        assert_eq!(column.as_ref(), batch.column(i).as_ref(), "{}", field.name());
    }
    let schema = lake.open(&table).await.unwrap().provider.schema();
    let field = |name: &str| schema.field_with_name(name).unwrap();
    assert_eq!(native_of(field("c_text"), "postgres"), Some("character varying(20)"));
    assert_eq!(native_of(field("c_dec"), "delta"), Some("decimal(38,10)"));
    assert_eq!(native_of(field("c_local"), "delta"), Some("timestamp_ntz"));
    assert!(types::is_json(field("c_json")) && !field("required").is_nullable());

    for sql in [
        "select min(c_long), max(c_long), min(c_byte), max(c_short), count(*) filter (where c_bool) from t where true",
        "select min(c_dec), max(c_dec), count(*) filter (where isnan(c_double)), count(*) filter (where isinf(c_double)) from t where true",
        "select count(*) filter (where c_text = ''), max(octet_length(c_bin)), min(c_date), max(c_date) from t where true",
        "select count(*) filter (where c_local is null), min(c_local), max(c_local) from t where true",
        "select epoch_us(min(c_instant)), epoch_us(max(c_instant)) from t where true",
        "select sum(len(c_list)), count(c_struct), min(c_struct.a), sum(required) from t where true",
        "select required from t where c_local <= timestamp '1969-12-31 23:59:59.999999' and c_local > timestamp '1900-01-01'",
    ] {
        let (python, duckdb) = lake.independent(&table, sql);
        assert_eq!(python, duckdb, "{sql}");
        assert!(!python.is_empty(), "{sql}");
    }
    // NaN is greater than every number, so no bound may hide it.
    assert_eq!(lake.value(&table, "select required from t where c_double > 1").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn partition_columns_of_every_type_come_back_exactly_and_skip_files() {
    let (lake, table) = (Lake::new(), orders());
    let all = zoo();
    let names =
        ["required", "c_bool", "c_byte", "c_short", "c_int", "c_long", "c_date", "c_instant", "c_local", "c_json"];
    let indices: Vec<_> = names.iter().map(|n| all.schema().index_of(n).unwrap()).collect();
    let batch = all.project(&indices).unwrap();
    let partition_by = names[1..].iter().map(|n| (*n).to_owned()).collect();
    lake.load(&table, &Load { partition_by, ..Load::new(WriteMode::Append) }, std::slice::from_ref(&batch))
        .await
        .unwrap();
    assert_eq!(lake.parquet_files(&table).len(), 4, "one file a combination of values");
    let read = lake.batches(&table, "select * from t order by required").await;
    for (i, name) in names.iter().enumerate() {
        assert_eq!(read[0].column_by_name(name).unwrap().as_ref(), batch.column(i).as_ref(), "{name}");
    }
    for sql in [
        "select min(c_long), max(c_long), min(c_byte), max(c_short), count(*) filter (where c_bool) from t where true",
        "select min(c_date), max(c_date), min(c_local), max(c_local) from t where true",
        "select count(*) from t where c_json is null",
    ] {
        let (python, duckdb) = lake.independent(&table, sql);
        assert_eq!(python, duckdb, "{sql}");
    }
    assert_eq!(lake.value(&table, "select required from t where c_json is null").await, "3");
    assert_eq!(lake.value(&table, "select required from t where c_date < date '0002-01-01'").await, "1");
    let plan = plan(&lake, "select required from t where c_long > 5").await;
    let text = datafusion::physical_plan::displayable(plan.as_ref()).indent(true).to_string();
    assert_eq!(text.matches(".parquet").count(), 1, "{text}");

    let empty = RecordBatch::try_from_iter([
        ("id", Arc::new(Int64Array::from(vec![1])) as ArrayRef),
        ("country", Arc::new(StringArray::from(vec![""])) as ArrayRef),
    ]);
    let other = dpone_engine::Relation::new("landing", "other");
    let load = Load { partition_by: vec!["country".into()], ..Load::new(WriteMode::Append) };
    let error = lake.load(&other, &load, &[empty.unwrap()]).await.unwrap_err();
    assert!(error.message().contains("empty text"), "{error}");
    for column in ["c_double", "c_dec", "c_list"] {
        let load = Load { partition_by: vec![column.into()], ..Load::new(WriteMode::Append) };
        assert!(lake.load(&other, &load, &[zoo()]).await.unwrap_err().message().contains(column));
    }
}

async fn plan(lake: &Lake, sql: &str) -> Arc<dyn ExecutionPlan> {
    let context = SessionContext::new();
    context.register_table("t", lake.open(&orders()).await.unwrap().provider).unwrap();
    context.sql(sql).await.unwrap().create_physical_plan().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_skipped_by_their_statistics() {
    let (lake, table) = (Lake::new(), orders());
    for (id, name) in [(1, "a"), (100, "m"), (200, "z")] {
        let batch = RecordBatch::try_from_iter([
            ("id", Arc::new(Int64Array::from(vec![id, id + 1])) as ArrayRef),
            ("name", Arc::new(StringArray::from(vec![name, name])) as ArrayRef),
            (
                "at",
                Arc::new(TimestampMicrosecondArray::from(vec![id * 1_000_001, id * 1_000_001]).with_timezone("UTC"))
                    as ArrayRef,
            ),
        ]);
        lake.load(&table, &Load::new(WriteMode::Append), &[batch.unwrap()]).await.unwrap();
    }
    for (filter, files) in [
        ("id = 101", 1),
        ("id > 300", 0),
        ("name > 'b'", 2),
        ("name = 'm' or id = 1", 2),
        ("at > timestamp '1970-01-01T00:02:00Z'", 1),
        ("id is null", 0),
    ] {
        let plan = plan(&lake, &format!("select id from t where {filter}")).await;
        let text = datafusion::physical_plan::displayable(plan.as_ref()).indent(true).to_string();
        assert_eq!(text.matches(".parquet").count(), files, "{filter}: {text}");
    }
    // The count needs no file at all.
    let plan = plan(&lake, "select count(*) from t").await;
    let text = datafusion::physical_plan::displayable(plan.as_ref()).indent(true).to_string();
    assert!(!text.contains("DataSourceExec: file"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_runs_the_same_after_a_trip_through_protobuf() {
    let (lake, table) = (Lake::new(), orders());
    let all = zoo();
    let load = Load { partition_by: vec!["c_bool".into(), "c_local".into()], ..Load::new(WriteMode::Append) };
    lake.load(&table, &load, &[all]).await.unwrap();
    let plan = plan(&lake, "select * from t where required <> 2 order by required").await;
    let bytes = datafusion_proto::bytes::physical_plan_to_bytes(Arc::clone(&plan)).unwrap();
    let context = SessionContext::new();
    let back = datafusion_proto::bytes::physical_plan_from_bytes(&bytes, &context.task_ctx()).unwrap();
    let run = |plan: Arc<dyn ExecutionPlan>| {
        let stream = datafusion::physical_plan::execute_stream(plan, context.task_ctx()).unwrap();
        async move { stream.try_collect::<Vec<_>>().await.unwrap() }
    };
    let (there, here) = (run(back).await, run(plan).await);
    assert_eq!(there, here);
    assert_eq!(here.iter().map(RecordBatch::num_rows).sum::<usize>(), 3);
}

#[test]
fn the_dialect_names_types_and_describes_tables() {
    let dialect = dpone_delta::DeltaDialect;
    let field = |data_type| Field::new("c", data_type, true);
    for (data_type, name) in [
        (DataType::UInt64, "decimal(20,0)"),
        (DataType::Time64(TimeUnit::Microsecond), "string"),
        (DataType::Timestamp(TimeUnit::Nanosecond, None), "timestamp_ntz"),
        (DataType::FixedSizeBinary(4), "binary"),
        (DataType::new_list(DataType::UInt8, true), "array<short>"),
        (DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::LargeUtf8)), "string"),
    ] {
        assert_eq!(dialect.native_type(&field(data_type)).unwrap(), name);
    }
    let change = dpone_planner::schema::SchemaChange::CreateTable {
        schema: Arc::new(Schema::new(vec![Field::new("a`b", DataType::Int64, false)])),
        primary_key: vec![],
        partition_by: vec!["a`b".into()],
    };
    let text = dialect.render(&orders(), &change).unwrap();
    assert_eq!(text, ["create Delta table `landing`.`orders` (`a``b` long not null) partitioned by (`a``b`)"]);
}
