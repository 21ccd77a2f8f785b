//! Plans as bytes: our execution nodes and functions through `datafusion-proto`.
//!
//! A plan that travels carries connection names, never connections: the process that decodes it finds sources and sinks
//! in its own [`Connections`], with its own credentials.

use std::any::Any;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::common::{Result as DataFusionResult, internal_err};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::ScalarUDF;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::bytes::{
    physical_plan_from_bytes_with_extension_codec, physical_plan_to_bytes_with_extension_codec,
};
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use dpone_planner::diff::DiffSpec;
use dpone_planner::exact_cast::ExactCast;
use dpone_planner::literal::Converted;
use dpone_planner::order::{AtLeast, OrderKey};

use crate::repeat::RepeatExec;
use dpone_planner::row_hash::{DigestKind, HashText, RowDigest};
use dpone_planner::sift::SiftSpec;
use dpone_planner::tally::Followed;
use dpone_planner::timeline::TimelineSpec;
use dpone_planner::try_cast::TryCast;

use crate::diff::{DiffExec, TimelineExec};
use crate::scan::ScanExec;
use crate::sift::SiftExec;
use crate::stage::{StageExec, StageSpec};
use crate::tally::TallyExec;
use crate::{Connections, Error};

/// Encodes and decodes our execution nodes and the planner's functions.
#[derive(Debug)]
pub struct EngineCodec {
    connections: Arc<Connections>,
}

impl EngineCodec {
    pub fn new(connections: Arc<Connections>) -> Self {
        Self { connections }
    }

    /// The staging plan as another process would get it: encoded, and decoded again.
    pub(crate) fn round_trip(&self, node: Arc<StageExec>, tasks: &TaskContext) -> crate::Result<Arc<StageExec>> {
        let bytes = physical_plan_to_bytes_with_extension_codec(node, self)?;
        let decoded: Arc<dyn Any + Send + Sync> = physical_plan_from_bytes_with_extension_codec(&bytes, tasks, self)?;
        decoded.downcast().map_err(|_| Error::internal("a staging node came back as something else"))
    }
}

/// Our nodes on the wire.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(tag = "node", rename_all = "snake_case")]
enum Node {
    Scan { connection: String, spec: serde_json::Value },
    Stage { spec: Box<StageSpec> },
    Repeat,
    Diff { spec: Box<DiffSpec>, schema: SchemaRef },
    Timeline { spec: Box<TimelineSpec>, schema: SchemaRef },
    Tally { followed: Option<Followed> },
    Sift { spec: SiftSpec },
}

#[derive(serde::Serialize, serde::Deserialize)]
struct RowDigestSpec {
    kind: DigestKind,
    fields: Vec<Field>,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct ExactCastSpec {
    column: String,
    from: DataType,
    to: Field,
    uuid: bool,
}

fn unreadable(what: &str, error: &serde_json::Error) -> Error {
    Error::internal(format!("{what} cannot be read from its bytes: {error}"))
}

impl PhysicalExtensionCodec for EngineCodec {
    fn try_decode(
        &self,
        bytes: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        _: &TaskContext,
        _: &dyn PhysicalProtoConverterExtension,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        match (serde_json::from_slice(bytes).map_err(|e| unreadable("an execution node", &e))?, inputs) {
            (Node::Scan { connection, spec }, []) => {
                let scan = self.connections.source(&connection)?.scan(&spec)?;
                Ok(Arc::new(ScanExec::new(scan)))
            }
            (Node::Stage { spec }, [input]) => {
                let sink = self.connections.sink(&spec.connection)?;
                Ok(Arc::new(StageExec::new(Arc::clone(input), sink, *spec)?))
            }
            (Node::Repeat, [input]) => Ok(Arc::new(RepeatExec::new(Arc::clone(input)))),
            (Node::Diff { spec, schema }, [source, target]) => {
                Ok(Arc::new(DiffExec::new(Arc::clone(source), Arc::clone(target), Arc::from(spec), schema)))
            }
            (Node::Timeline { spec, schema }, [input]) => {
                Ok(Arc::new(TimelineExec::new(Arc::clone(input), Arc::from(spec), schema)))
            }
            (Node::Sift { spec }, [input]) => Ok(Arc::new(SiftExec::new(Arc::clone(input), spec))),
            (Node::Tally { followed }, [input]) => Ok(Arc::new(TallyExec::new(Arc::clone(input), followed))),
            _ => internal_err!("an execution node came with {} inputs", inputs.len()),
        }
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        out: &mut Vec<u8>,
        _: &dyn PhysicalProtoConverterExtension,
    ) -> DataFusionResult<()> {
        let any = node.as_ref() as &dyn Any;
        let ours = if let Some(scan) = any.downcast_ref::<ScanExec>() {
            Node::Scan { connection: scan.scan().connection().to_owned(), spec: scan.scan().spec() }
        } else if let Some(stage) = any.downcast_ref::<StageExec>() {
            Node::Stage { spec: Box::new(stage.spec().clone()) }
        } else if any.is::<RepeatExec>() {
            Node::Repeat
        } else if let Some(diff) = any.downcast_ref::<DiffExec>() {
            Node::Diff { spec: Box::new(diff.spec().clone()), schema: diff.schema() }
        } else if let Some(timeline) = any.downcast_ref::<TimelineExec>() {
            Node::Timeline { spec: Box::new(timeline.spec().clone()), schema: timeline.schema() }
        } else if let Some(sift) = any.downcast_ref::<SiftExec>() {
            Node::Sift { spec: sift.spec().clone() }
        } else if let Some(tally) = any.downcast_ref::<TallyExec>() {
            Node::Tally { followed: tally.followed().cloned() }
        } else {
            return internal_err!("the execution node {} has no serialised form", node.name());
        };
        serde_json::to_writer(out, &ours).map_err(|e| unreadable(node.name(), &e))?;
        Ok(())
    }

    fn try_decode_udf(&self, name: &str, bytes: &[u8]) -> DataFusionResult<Arc<ScalarUDF>> {
        let unreadable = |e| unreadable(name, &e);
        Ok(Arc::new(match name {
            ExactCast::NAME => {
                let spec: ExactCastSpec = serde_json::from_slice(bytes).map_err(unreadable)?;
                ScalarUDF::new_from_impl(ExactCast::new(spec.column, spec.from, spec.to, spec.uuid))
            }
            OrderKey::NAME => ScalarUDF::new_from_impl(serde_json::from_slice::<OrderKey>(bytes).map_err(unreadable)?),
            AtLeast::NAME => ScalarUDF::new_from_impl(serde_json::from_slice::<AtLeast>(bytes).map_err(unreadable)?),
            TryCast::NAME => ScalarUDF::new_from_impl(serde_json::from_slice::<TryCast>(bytes).map_err(unreadable)?),
            Converted::NAME => ScalarUDF::new_from_impl(Converted::default()),
            RowDigest::NAME => {
                let spec: RowDigestSpec = serde_json::from_slice(bytes).map_err(unreadable)?;
                ScalarUDF::new_from_impl(RowDigest::new(spec.kind, spec.fields))
            }
            HashText::NAME => ScalarUDF::new_from_impl(HashText::default()),
            _ => return internal_err!("the function {name} is not known here"),
        }))
    }

    fn try_encode_udf(&self, node: &ScalarUDF, out: &mut Vec<u8>) -> DataFusionResult<()> {
        let any = node.inner().as_ref() as &dyn Any;
        if let Some(cast) = any.downcast_ref::<ExactCast>() {
            let (column, from, to, uuid) = cast.spec();
            serde_json::to_writer(out, &ExactCastSpec { column, from, to, uuid })
                .map_err(|e| unreadable(ExactCast::NAME, &e))?;
        } else if let Some(key) = any.downcast_ref::<OrderKey>() {
            serde_json::to_writer(out, key).map_err(|e| unreadable(OrderKey::NAME, &e))?;
        } else if let Some(at_least) = any.downcast_ref::<AtLeast>() {
            serde_json::to_writer(out, at_least).map_err(|e| unreadable(AtLeast::NAME, &e))?;
        } else if let Some(cast) = any.downcast_ref::<TryCast>() {
            serde_json::to_writer(out, cast).map_err(|e| unreadable(TryCast::NAME, &e))?;
        } else if let Some(digest) = any.downcast_ref::<RowDigest>() {
            let spec = RowDigestSpec { kind: digest.kind(), fields: digest.fields().to_vec() };
            serde_json::to_writer(out, &spec).map_err(|e| unreadable(RowDigest::NAME, &e))?;
        }
        Ok(())
    }
}
