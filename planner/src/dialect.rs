//! How one system spells identifiers, types and DDL, and which Arrow types it stores.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::logical_expr::Expr;

use crate::error::Result;
use crate::relation::Relation;
use crate::schema::{Cost, LockBudget, Risk, SchemaChange, TableFacts, TypeShape, Work};
use crate::types::{native_of, parse_logical, spelled_as, widens};

/// What a definition says about a table that is created, beyond its columns and keys.
#[derive(Debug, Clone, Copy)]
pub struct TableOptions<'a> {
    /// Options of the sink that are its connector's own.
    pub options: &'a BTreeMap<String, String>,
    /// The column by whose values rows come in, where the strategy has one.
    pub cursor: Option<&'a str>,
}

/// One system's spelling. Pure: no connection is needed to render DDL.
pub trait Dialect: Debug + Send + Sync {
    /// The name of the system, as in `type:` of a manifest.
    fn system(&self) -> &'static str;

    /// The identifier, quoted so that any name is only ever a name.
    fn quote(&self, identifier: &str) -> String;

    /// The native type that a column created for this field gets, such as `numeric(10,2)`. An error names the column
    /// and what to do where nothing in the system holds every value of the type.
    fn native_type(&self, field: &Field) -> Result<String>;

    /// The Arrow field that the system stores for this one: the nearest that holds every value. Staged batches have
    /// the stored schema; the planner puts exact conversions in front.
    fn stored_field(&self, field: &Field) -> Result<Field>;

    /// The Arrow field in which values of `source` are staged for the existing column `target`, or `None` where the
    /// column does not hold every value. `target` is a field as the sink describes it.
    fn staged_field(&self, source: &Field, target: &Field) -> Result<Option<Field>> {
        let stored = self.stored_field(source)?;
        let native = native_of(source, self.system());
        if native.is_some() && native == native_of(target, self.system()) {
            return Ok(Some(stored));
        }
        let held = widens(stored.data_type(), target.data_type()) || spelled_as(stored.data_type(), target).is_some();
        Ok(held.then(|| target.clone().with_nullable(source.is_nullable())))
    }

    /// Whether the texts or bytes of a stored column may be staged as views of what was read, though its field is none:
    /// nothing is copied then before the sink writes it.
    fn takes_view(&self, _stored: &Field) -> bool {
        false
    }

    /// The column that a type's name declares, as the system's catalog or a person writes it, or by its logical name.
    /// The field carries the native type as the catalog writes it. An error names the column.
    fn parse_type(&self, column: &str, name: &str) -> Result<Field> {
        parse_logical(column, name)
    }

    /// What a column can hold: its native type where it is of this system, else its Arrow type.
    fn shape(&self, field: &Field) -> TypeShape {
        TypeShape::of_arrow(field)
    }

    /// The column that holds exactly the values of a shape, for a type that is widened. An error where the system has
    /// no such type, and for shapes whose name means another thing in the system.
    fn field_of(&self, column: &str, shape: &TypeShape) -> Result<Field> {
        self.parse_type(column, &shape.name())
    }

    /// Bytes of the longest name of a column.
    fn longest_name(&self) -> usize {
        255
    }

    /// What a change of `table` costs on this system, given what is known of the table. Facts that are not known are
    /// assumed, and the assumption is said.
    fn cost(&self, _table: &Relation, _facts: &TableFacts, _change: &SchemaChange) -> Cost {
        Cost::new(Risk::MetadataOnly, None, Work::None, "tables of this system have no server that could wait")
    }

    /// The statements of one schema change, in order. For systems without DDL the list describes the change.
    fn render(&self, table: &Relation, change: &SchemaChange) -> Result<Vec<String>>;

    /// The statements of a schema change with what the definition says of the table: only creating one depends on it.
    fn render_with(&self, table: &Relation, change: &SchemaChange, _more: &TableOptions<'_>) -> Result<Vec<String>> {
        self.render(table, change)
    }

    /// The statements with the budget for locks and time around them, as they are sent to the server.
    fn within_budget(&self, statements: Vec<String>, _budget: &LockBudget) -> Vec<String> {
        statements
    }

    /// The phases of a migration that is not made in one step; `None`: as SQL in general has it, for somebody to run.
    fn migration(
        &self,
        _table: &Relation,
        _migration: &crate::schema::expand_contract::Migration,
    ) -> Result<Option<Vec<crate::schema::expand_contract::MigrationStep>>> {
        Ok(None)
    }

    /// Fails where the system's own SQL cannot say a scope with exactly this meaning. `columns` are the target's, or those
    /// that it will be created with. Systems in which the engine evaluates scopes say all of them.
    fn check_scope(&self, _columns: &Schema, _scope: &Expr) -> Result<()> {
        Ok(())
    }

    /// Fails where the values of a column cannot be told apart by the system, so that it cannot be a key to match rows by.
    fn check_key(&self, _column: &Field) -> Result<()> {
        Ok(())
    }

    /// Fails where tables of the system cannot be partitioned as the definition asks.
    fn check_partitions(&self, _partition_by: &[String]) -> Result<()> {
        Ok(())
    }

    fn quote_relation(&self, table: &Relation) -> String {
        match &table.database {
            Some(database) => {
                format!("{}.{}.{}", self.quote(database), self.quote(&table.schema), self.quote(&table.name))
            }
            None => format!("{}.{}", self.quote(&table.schema), self.quote(&table.name)),
        }
    }

    fn stored_schema(&self, schema: &Schema) -> Result<SchemaRef> {
        let fields = schema.fields().iter().map(|f| self.stored_field(f)).collect::<Result<Vec<_>>>()?;
        Ok(Arc::new(Schema::new(fields)))
    }
}
