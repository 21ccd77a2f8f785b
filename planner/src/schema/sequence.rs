//! Several changes of one column, one after the other: each is made on the column that the ones before have left.
//!
//! Some systems state a whole column in each statement. There a change that is spelled from the column as it was would
//! take back the one before: a type that was just widened would be narrowed again by the statement that allows NULL.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{Field, FieldRef};

use super::SchemaChange;
use super::columns::{COLLATION, COMMENT, DEFAULT};
use super::compare::Change;
use super::decide::{Action, Approval, Decision};

/// The target's columns as the changes that are made leave them.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    columns: BTreeMap<String, FieldRef>,
}

impl Sequence {
    /// The change, as it is once the ones before it are made.
    pub(super) fn next(&self, mut change: Change) -> Change {
        let Some(now) = change.ddl.as_ref().and_then(SchemaChange::column).and_then(|name| self.columns.get(name))
        else {
            return change;
        };
        use SchemaChange::*;
        match change.ddl.as_mut() {
            Some(AlterType { from, to }) => {
                *to = retyped(now, to);
                *from = Arc::clone(now);
            }
            Some(
                DropNotNull { column }
                | SetNotNull { column }
                | SetDefault { column, .. }
                | DropDefault { column }
                | SetComment { column, .. }
                | SetCollation { column, .. }
                | DropColumn { column },
            ) => *column = Arc::clone(now),
            Some(RenameColumn { from, .. }) => *from = Arc::clone(now),
            Some(CreateTable { .. } | AddColumn { .. }) | None => {}
        }
        change
    }

    /// Remembers what a change leaves, where it is made, or is made once somebody has approved the plan.
    pub(super) fn made(&mut self, change: &Change, action: &Action) {
        let approved = matches!(action.decision, Decision::Apply | Decision::ManualApproval);
        if !approved && action.approval_status != Approval::Pending {
            return;
        }
        if let Some(left) = change.ddl.as_ref().and_then(outcome) {
            self.columns.insert(left.name().clone(), Arc::new(left));
        }
    }
}

/// The column after the change.
fn outcome(change: &SchemaChange) -> Option<Field> {
    use SchemaChange::*;
    let with = |column: &Field, key: &str, text: &str| {
        let mut metadata = column.metadata().clone();
        metadata.insert(key.to_owned(), text.to_owned());
        column.clone().with_metadata(metadata)
    };
    Some(match change {
        CreateTable { .. } | AddColumn { .. } | DropColumn { .. } => return None,
        AlterType { to, .. } => to.as_ref().clone(),
        DropNotNull { column } => column.as_ref().clone().with_nullable(true),
        SetNotNull { column } => column.as_ref().clone().with_nullable(false),
        SetDefault { column, default } => with(column, DEFAULT, default),
        DropDefault { column } => with(column, DEFAULT, ""),
        SetComment { column, comment } => with(column, COMMENT, comment.as_deref().unwrap_or_default()),
        SetCollation { column, collation } => with(column, COLLATION, collation),
        RenameColumn { from, to } => from.as_ref().clone().with_name(to),
    })
}

/// The column with another type; its name, nullability and what else is known of it stay.
pub(super) fn retyped(column: &Field, like: &Field) -> FieldRef {
    let own = |key: &str| [COLLATION, COMMENT, DEFAULT].contains(&key);
    let mut metadata = like.metadata().clone();
    metadata.retain(|key, _| !own(key));
    metadata.extend(column.metadata().iter().filter(|(key, _)| own(key)).map(|(k, v)| (k.clone(), v.clone())));
    Arc::new(Field::new(column.name(), like.data_type().clone(), column.is_nullable()).with_metadata(metadata))
}
